// Starts the processes of a local cluster, starts dead ones again, and ends all in order.
//
// One thread owns it (`conclave up`); others see its work through the state file and the events.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/cli/child_process.h"
#include "services/cli/cluster_plan.h"
#include "services/cli/cluster_state.h"
#include "services/cli/restart_policy.h"
#include "shared/base/clock.h"
#include "shared/base/signals.h"

namespace conclave::cli {

class Supervisor {
 public:
  struct Options {
    ClusterPlan plan;
    std::string programs_dir;  // folder of conclave-gateway and the others
    std::string state_dir;
    std::string model;
    CommonOptions common;
    SupervisorLock* lock = nullptr;  // of the state folder; outlives the supervisor
    // Called with each event (a death, a restart), on the supervisor's thread.
    std::function<void(const Event&)> on_event;
    // Called every second or so while starting, with one line: "engine-0 loading 41 %".
    std::function<void(const std::string&)> on_progress;
  };
  Supervisor(Options options, StopSignals& signals);
  ~Supervisor();  // ends what still runs, without grace

  // Starts all and waits until the gateway is ready. A process that ends by itself before that is
  // an error with its last log line, because starting it again would end the same way: ABORTED, or
  // ALREADY_EXISTS when somebody else listens on its port by now. CANCELLED on a stop signal.
  absl::Status Start(Duration timeout);

  // Watches until a stop signal.
  void Supervise();

  // Ends the gateway, then engines, workers, controller, each with the drain time as grace; a
  // second signal ends all at once. Returns how many processes ended; state() then says what the
  // gateway found running.
  int Stop();
  const ClusterState& state() const { return state_; }

 private:
  struct Child {
    PlannedProcess plan;
    ProcessState state;
    RestartPolicy restarts;
    TimePoint restart_at{};
  };

  // Removes the topologies that members kept, if the cluster before had other workers: this one
  // would wait for those, and they do not come back.
  void ForgetOtherWorkers();
  absl::Status StartOne(Child& child);
  // Reaps the dead; each is told to `on_end`.
  void Reap(const std::function<void(Child&, const ChildEnd&)>& on_end);
  void RestartDue();
  // Makes the state folder again when somebody has deleted it.
  void KeepStateFolder();
  void Tell(const std::string& member, const std::string& text, bool death = false);
  // Tell; but after a failed start, whose reason is shown as the error, for the events alone.
  void Record(const std::string& member, const std::string& text);
  void Save(const std::string& phase);
  bool WaitForEnd(const std::string& kind, Duration grace);
  // Why a child ended by itself: the error at the end of its log, or that there is none, or that
  // nothing could be written there.
  std::string LastWords(const Child& child) const;
  // Who listens where a child that has ended would have: it took the port after it was seen free.
  // Empty when nobody does.
  std::string PortTaken(const Child& child) const;
  // What a gateway that has just ended found running.
  void TakeDrainReport(const Child& child);
  std::string StartingLine();

  const Options options_;
  StopSignals& signals_;
  SteadyClock clock_;
  std::vector<Child> children_;
  ClusterState state_;
  bool start_failed_ = false;
  TimePoint next_look_{};  // at the state folder
};

}  // namespace conclave::cli

// What the controller knows: members under leases, who owns which expert, and the topology that
// follows.
//
// Pure: no I/O and no threads; time comes from a Clock. The controller's service calls it under one
// mutex. Soft state only: everything but the term can be rebuilt from what members report.
#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "shared/base/clock.h"
#include "shared/placement/member.h"
#include "shared/placement/planner.h"
#include "shared/placement/topology.h"

namespace conclave::controller {

// One report, as it came.
struct Report {
  std::string name;
  std::string incarnation;
  placement::MemberKind kind = placement::MemberKind::kEngine;
  placement::MemberStatus status;
  std::string address;
  std::string ops_address;
  std::string host;
  placement::HostSocket host_socket;
  std::string version;
  int64_t pid = 0;
  int64_t resident_bytes = 0;
  bool leaving = false;
  placement::Epoch seen_epoch;
  uint64_t highest_term = 0;
  std::optional<placement::Topology> last_topology;  // in a stream's first report
};

struct MemberRow {
  Report report;  // the newest
  bool live = false;
  Duration lease_remaining{0};
};

struct ClusterEvent {
  int64_t unix_ms = 0;
  std::string member;
  std::string text;
};

class Cluster {
 public:
  struct Options {
    std::string cluster_id;  // that topologies carry
    Duration lease = std::chrono::milliseconds(2000);
    // A first placement waits until no worker has joined for this long, so that workers started
    // together share from the start.
    Duration quiet = std::chrono::milliseconds(250);
    // A worker that is gone for this long loses its experts to the others.
    Duration reassign_after = std::chrono::seconds(10);
    // Members that are gone are listed for this long.
    Duration remember = std::chrono::seconds(60);
    size_t max_events = 1000;
    // Time between two ticks counts up to this: see Now.
    Duration longest_step = std::chrono::milliseconds(100);
  };

  // `term`: above that of the state file. Nothing is moved for one lease time from now if a member
  // has seen a topology before.
  Cluster(const Options& options, uint64_t term, const Clock* clock);

  // Takes a report and renews the member's lease. ALREADY_EXISTS when the name belongs to another
  // live process; INVALID_ARGUMENT for a report that makes no sense. Nothing changes on an error.
  absl::Status OnReport(Report report);

  // The member's stream broke: its lease runs on, but another process may take its name.
  void OnDisconnected(const std::string& name, const std::string& incarnation);

  // Ends leases that ran out and plans what is due. Called at least every 100 ms.
  void Tick();

  // The newest topology; its epoch's number grows with each change of content.
  const placement::Topology& topology() const { return topology_; }
  uint64_t term() const {
    return term_;
  }  // grows when a member has seen a higher one: to be written to the state file

  placement::ClusterView view() const;
  // How far the experts of a worker that drains are handed over; kNone for all other members.
  placement::Handover HandoverOf(const std::string& name) const;
  // Why a live worker is given no experts: it has another checkpoint than the engines'. Empty for
  // others.
  const std::string& WhyIdle(const std::string& name) const;
  size_t num_missing_experts() const;  // that no live worker serves, over all models
  // Experts that members have been told to release and may still have, over all models.
  size_t num_let_go() const;
  // Members of the kind lost since the start because their leases ran out.
  int64_t num_lease_expirations(placement::MemberKind kind) const;
  std::vector<MemberRow> members() const;               // ascending by name; lost ones for a while
  std::vector<ClusterEvent> events(size_t last) const;  // oldest first; 0: all
  uint64_t num_events() const { return num_events_; }   // ever; `events` forgets old ones

 private:
  struct Member {
    Report report;
    TimePoint last_report;
    bool live = false;
    bool connected = false;
    placement::Handover handover_told = placement::Handover::kNone;
    std::string why_idle;
  };
  struct Model {
    placement::ModelIdentity identity;
    placement::Owners owners;
    bool replan = false;   // the set of workers changed
    TimePoint changed_at;  // when it last did
    // An expert that a worker no longer serves stays loaded until every live engine has seen this
    // epoch.
    std::map<std::pair<placement::ExpertKey, std::string>, placement::Epoch> retained;
    // Experts that a worker reports and that a topology since has told it to release: it may have
    // released them by now. The newest epoch that did.
    std::map<std::pair<placement::ExpertKey, std::string>, placement::Epoch> let_go;
    placement::ExpertKeys unplaced_told;
  };

  // The time by which members are judged: that during which this process ran. While it was starved
  // or stopped it could not read reports either, and what came then is still to be read.
  TimePoint Now() const;
  void Lose(Member& member, const std::string& why);
  void AdoptOwners(const Report& report);
  void MarkReplan(const std::string& fingerprint);
  // Whether workers of this model are given work: an engine serves it, or none has said yet what it
  // serves. Engines that are gone for a short while count.
  bool IsWanted(const std::string& fingerprint) const;
  // A worker that experts may be moved to.
  static bool IsTaker(const Member& member, const std::string& fingerprint);
  bool HasTaker(const std::string& fingerprint) const;
  // Whether a worker still has its place: it is a taker, or gone for a short while without having
  // said that it goes.
  bool KeepsItsPlace(const Member& member, const std::string& fingerprint) const;
  size_t NumOwned(const Report& worker) const;
  // What a draining worker serves and nobody else has room for.
  placement::ExpertKeys WithoutRoom(const std::string& fingerprint,
                                    const placement::TopologyWorker& worker) const;
  void TellHandovers();
  void FindIdle();
  void PlanDueModels();
  void Publish();
  void ComputeTopology();
  placement::ModelTopology TopologyOf(Model& model) const;
  // What a worker has and keeps: what it reports, but for what it may be releasing.
  placement::ExpertKeys KeptBy(const Model& model, const Member& worker) const;
  // After a report of this worker: forgets what it has been told to release when that is settled.
  void SettleLetGo(const Report& worker, bool is_new);
  // Of a member that is gone, or another process by now.
  void ForgetLetGo(const std::string& member);
  // After a topology of this model with this epoch has become the one to publish.
  void NoteLetGo(Model& model, const placement::ModelTopology& published, placement::Epoch epoch);
  bool AllEnginesHaveSeen(const std::string& fingerprint, placement::Epoch epoch) const;
  void Tell(const std::string& member, std::string text);

  const Options options_;
  const Clock* const clock_;
  const TimePoint started_at_;
  TimePoint ticked_at_;        // by the clock
  TimePoint counted_at_tick_;  // Now() then
  uint64_t term_;
  bool members_know_topologies_ = false;
  std::map<std::string, Member> members_;
  std::map<std::string, Model> models_;  // by fingerprint
  std::map<placement::MemberKind, int64_t> lease_expirations_;
  placement::Topology topology_;
  bool unpublished_ = true;  // what it follows from has changed since it was computed
  std::deque<ClusterEvent> events_;
  uint64_t num_events_ = 0;
};

}  // namespace conclave::controller

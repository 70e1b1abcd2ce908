// What is known on disk of the local cluster: who supervises it, which processes it has, and where
// they listen.
//
// <state_dir>/cluster.json is written by the supervisor (`conclave up`) alone and read by all other
// commands; <state_dir>/up.lock is locked by the supervisor as long as it lives;
// <state_dir>/events.jsonl holds what it saw.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shared/tls/certificate_files.h"

namespace conclave::cli {

struct ProcessState {
  std::string name;  // "engine-0"
  std::string kind;  // "controller", "gateway", "engine", "expert"
  int64_t pid = 0;   // 0: does not run now
  int64_t start_ticks =
      0;  // field 22 of /proc/PID/stat: tells this process from a later one of the same PID
  std::string address;      // host:port: HTTP of the gateway, gRPC of the others
  std::string ops_address;  // host:port of /readyz and /metrics
  std::string log;          // path
  int64_t restarts = 0;
  int64_t restart_at_unix_ms = 0;  // when it will be started again; 0: it runs
  std::string last_end;            // "ended by SIGKILL"
};

struct ClusterState {
  std::string cluster_id;  // drawn by the first `up` in this folder, and kept by all that follow:
                           // members that joined by hand find their cluster again
  // "starting", "ready", "draining", "ended"; "unsupervised", which is never written, when the
  // supervisor was killed and its processes go on
  std::string phase;
  std::string model;
  int64_t supervisor_pid = 0;
  int64_t supervisor_start_ticks = 0;
  std::string http_address;
  std::string grpc_address;
  std::string controller_address;
  std::string cluster_secret_file;  // absolute; empty: none. Later commands show the same secret
  tls::CertificateFiles tls;        // the same of its certificates; absolute paths
  std::string tls_server_name;
  bool api_tls = false;       // whether the gateway asks its clients for TLS
  int64_t drain_seconds = 0;  // its setting: how long running requests have at the end
  // At the end: requests that the gateway found running and those of them that it had to cut off.
  // -1: it did not say.
  int64_t drained_requests = -1;
  int64_t cut_off_requests = 0;
  std::vector<ProcessState> processes;
  // Not in the file but found when it is read: whether the supervisor lives.
  bool supervised = false;
};

// The end of a sentence: ", no request was running", ", 2 requests were running, 1 was cut off";
// empty when the gateway did not say.
std::string DescribeDrain(const ClusterState& state);

std::string ClusterStatePath(const std::string& state_dir);

absl::Status WriteClusterState(const std::string& state_dir, const ClusterState& state);

// NOT_FOUND when no cluster was ever started here; INVALID_ARGUMENT names a file that is not one of
// ours.
absl::StatusOr<ClusterState> ReadClusterState(const std::string& state_dir);

// Whether this very process still lives (a zombie does not).
bool IsAlive(int64_t pid, int64_t start_ticks);

bool AnyAlive(const std::vector<ProcessState>& processes);

// Field 22 of /proc/PID/stat; 0 when there is no such process.
int64_t StartTicks(int64_t pid);

// The state if the supervisor lives now or, in the phase "unsupervised", if some of its processes
// still do: those that do not have no pid. Else FAILED_PRECONDITION that says how to start a
// cluster.
absl::StatusOr<ClusterState> ReadRunningCluster(const std::string& state_dir);

// Held by the supervisor for life.
class SupervisorLock {
 public:
  // FAILED_PRECONDITION when another supervisor holds it.
  static absl::StatusOr<SupervisorLock> Take(const std::string& state_dir);
  SupervisorLock(SupervisorLock&& other) noexcept;
  SupervisorLock& operator=(SupervisorLock&&) = delete;
  ~SupervisorLock();

  // Whether the locked file is still the one that others find in the folder. It is not after
  // somebody has deleted the folder.
  bool InPlace() const;
  // Makes folder and file again and locks them.
  absl::Status Retake();

 private:
  SupervisorLock(std::string state_dir, int fd) : state_dir_(std::move(state_dir)), fd_(fd) {}
  std::string state_dir_;
  int fd_;
};

// RESOURCE_EXHAUSTED or INVALID_ARGUMENT unless what a cluster writes at its start (state and the
// first log lines) can be written in this folder, which exists.
absl::Status CheckRoom(const std::string& state_dir);

// One line of `conclave events`.
struct Event {
  int64_t unix_ms = 0;
  std::string member;
  std::string text;
  bool death = false;  // a process of the cluster ended by itself or was lost
};

absl::Status AppendEvent(const std::string& state_dir, const Event& event);
// Oldest first; unreadable lines are left out.
std::vector<Event> ReadEvents(const std::string& state_dir);

}  // namespace conclave::cli

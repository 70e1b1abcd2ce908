// The controller's admin calls, for `ps`, `events`, `up` and `down`.
#pragma once

#include <chrono>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/cli/cluster_state.h"
#include "services/cli/command.h"

namespace conclave::cli {

// A member as it last reported.
struct MemberInfo {
  std::string name;
  std::string kind;   // "gateway", "engine", "expert"
  std::string state;  // "loading", "ready", "draining", "left", "lost"
  bool live = false;
  std::string address, ops_address, host, version, note;
  int64_t pid = 0;
  // Engines and workers, once the checkpoint is open; else empty and 0.
  std::string fingerprint, served_name, numerics_class;
  int64_t num_moe_layers = 0, num_experts = 0;
  std::vector<std::pair<int32_t, int32_t>> holds;  // (layer, expert)
  int64_t resident_bytes = 0;
  int64_t running = 0, waiting = 0, context_tokens = 0;
  double kv_used_ratio = 0, rows_per_second = 0, tokens_per_second = 0;
};

struct ClusterMembers {
  uint64_t term = 0, number = 0;  // the topology's epoch
  std::vector<MemberInfo> members;
};

// Which controller to ask: that of the cluster that runs here, else the setting controller_address
// if it was set; FAILED_PRECONDITION when there is none.
absl::StatusOr<std::string> FindController(const Context& context);

// UNAVAILABLE when the controller does not answer in time, UNAUTHENTICATED when it has another
// cluster secret than `common` names.
absl::StatusOr<ClusterMembers> ListMembers(const std::string& controller,
                                           const CommonOptions& common,
                                           std::chrono::milliseconds timeout);

// `last` 0: all that the controller keeps.
absl::StatusOr<std::vector<Event>> ListEvents(const std::string& controller,
                                              const CommonOptions& common, int last);

}  // namespace conclave::cli

// What `conclave ps` shows, made from the state file and the controller's list. Pure but for
// reading the memory of local processes.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "services/cli/cluster_state.h"
#include "services/cli/controller_client.h"

namespace conclave::cli {

struct ProcessRow {
  std::string name, kind, address, ops_address, log;
  int64_t pid = 0;  // 0: does not run
  int64_t restarts = 0;
  int64_t memory_bytes = 0;
  std::string state{}, holds{}, load{}, model{}, fingerprint{};
  std::string short_state{};  // the state in a word, where `state` is too long for the table
};

// One row for each local process and each member elsewhere: controller, gateways, engines, workers.
std::vector<ProcessRow> JoinProcesses(const std::vector<ProcessState>& processes,
                                      const ClusterMembers& members, bool controller_answers);

// The members as their processes stand: one whose local process has ended is not live, though the
// controller waits for its lease.
ClusterMembers WithoutEnded(ClusterMembers members, const std::vector<ProcessState>& processes);

// One line: how many live replicas the experts have, and what the death of a worker means.
// `supervised`: somebody starts it again.
std::string ReplicaNote(const ClusterMembers& members, bool supervised);

}  // namespace conclave::cli

// A cluster to be measured, in a temporary folder: with what the benchmark sets. Gone when the
// object is.
#pragma once

#include <atomic>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/cli/bench_cluster/child.h"
#include "services/cli/cluster_state.h"
#include "shared/identity/key_file.h"

namespace conclave::cli {

struct BenchClusterOptions {
  std::string model;                               // checkpoint folder or packed file
  std::vector<identity::TenantRecord> tenants;     // a key each; none: no keys are asked for
  std::vector<std::string> flags;                  // further ones of `conclave up`
  const std::atomic<bool>* interrupted = nullptr;  // ends the start
};

class BenchCluster {
 public:
  // CANCELLED when interrupted; UNAVAILABLE with the last line of the log when it did not start.
  static absl::StatusOr<std::unique_ptr<BenchCluster>> Start(const BenchClusterOptions& options);
  // Ends the cluster and removes its folder.
  ~BenchCluster();

  const std::string& grpc_address() const { return state_.grpc_address; }
  const std::string& http_address() const { return state_.http_address; }
  // Of the tenants, in their order.
  const std::string& key(size_t tenant) const { return keys_[tenant]; }
  const std::vector<ProcessState>& processes() const { return state_.processes; }
  int64_t gateway_pid() const { return gateway_pid_; }
  const std::string& folder() const { return folder_.path(); }

 private:
  BenchCluster() = default;

  TemporaryFolder folder_;  // destroyed last
  std::vector<std::string> keys_;
  ClusterState state_;
  int64_t gateway_pid_ = 0;
  std::unique_ptr<Child> up_;
};

}  // namespace conclave::cli

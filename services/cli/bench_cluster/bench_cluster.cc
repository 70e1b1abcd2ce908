#include "services/cli/bench_cluster/bench_cluster.h"

#include <algorithm>
#include <chrono>
#include <thread>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"

namespace conclave::cli {
namespace {

constexpr auto kPoll = std::chrono::milliseconds(20);

}  // namespace

absl::StatusOr<std::unique_ptr<BenchCluster>> BenchCluster::Start(
    const BenchClusterOptions& options) {
  auto cluster = std::unique_ptr<BenchCluster>(new BenchCluster());
  const std::string& folder = cluster->folder();
  if (folder.empty()) {
    return absl::InvalidArgumentError(
        "no temporary folder can be made; set TMPDIR to a folder that may be written");
  }
  const std::string state_dir = folder + "/state";
  std::vector<std::string> words = {"up",          "--auto-ports", "--model",     options.model,
                                    "--state-dir", state_dir,      "--base-port", "18000",
                                    "--log-level", "warning"};
  if (!options.tenants.empty()) {
    identity::KeyFile keys;
    for (const identity::TenantRecord& tenant : options.tenants) {
      identity::DrawnKey drawn = identity::DrawKey();
      drawn.record.tenant = tenant.name;
      keys.tenants.push_back(tenant);
      keys.keys.push_back(std::move(drawn.record));
      cluster->keys_.push_back(std::move(drawn.text));
    }
    const std::string keys_file = folder + "/keys.json";
    RETURN_IF_ERROR(identity::WriteKeyFile(keys_file, keys));
    words.insert(words.end(), {"--gateway-keys-file", keys_file});
  }
  words.insert(words.end(), options.flags.begin(), options.flags.end());
  const std::string log = folder + "/up.log";
  ASSIGN_OR_RETURN(cluster->up_, Child::Start(std::move(words), log));
  for (;;) {
    if (options.interrupted && options.interrupted->load()) return absl::CancelledError("");
    if (!cluster->up_->running()) {
      return absl::UnavailableError(absl::StrCat("the cluster to be measured did not start: ",
                                                 cluster->up_->WhyEnded().message()));
    }
    auto state = ReadClusterState(state_dir);
    if (state.ok() && state->phase == "ready") {
      cluster->state_ = *std::move(state);
      break;
    }
    std::this_thread::sleep_for(kPoll);
  }
  const auto& processes = cluster->state_.processes;
  const auto gateway = std::find_if(processes.begin(), processes.end(),
                                    [](const ProcessState& p) { return p.kind == "gateway"; });
  if (gateway == processes.end()) return absl::InternalError("the cluster has no gateway");
  cluster->gateway_pid_ = gateway->pid;
  return cluster;
}

BenchCluster::~BenchCluster() = default;

}  // namespace conclave::cli

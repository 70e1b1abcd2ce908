#include "services/controller/leadership.h"

#include <unistd.h>

#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/json_file.h"
#include "shared/base/log.h"
#include "shared/base/status_macros.h"
#include "shared/rpc/cluster_id.h"

namespace conclave::controller {
namespace {

// From the loss of the Lease to the end of serving.
constexpr std::chrono::milliseconds kEnd{500};

// The pod's name and something that its state folder keeps: a container started again in the same
// pod is the same holder, and no other process is.
absl::StatusOr<std::string> HolderIdentity(const std::string& state_dir) {
  char name[256] = {};
  const std::string host = gethostname(name, sizeof(name) - 1) == 0 ? name : "unknown";
  const std::string path = state_dir + "/controller-identity.json";
  const absl::StatusOr<nlohmann::json> kept = ReadJsonFile(path);
  if (kept.ok() && kept->is_object() && kept->contains("identity") &&
      (*kept)["identity"].is_string()) {
    const std::string identity = (*kept)["identity"].get<std::string>();
    if (identity.starts_with(host + "_")) return identity;
  }
  const std::string identity = absl::StrCat(host, "_", rpc::DrawClusterId());
  RETURN_IF_ERROR(WriteJsonFile(path, {{"identity", identity}}));
  return identity;
}

}  // namespace

absl::StatusOr<std::unique_ptr<Leadership>> Leadership::Create(const Options& options,
                                                               const Clock* clock) {
  std::unique_ptr<Leadership> leadership(new Leadership(options, clock));
  if (options.lease_name.empty()) return leadership;
  ASSIGN_OR_RETURN(KubernetesApi::Options api,
                   KubernetesApi::FromEnvironment(options.service_account_dir));
  api.timeout = kLongestAttempt / 2;
  leadership->api_.emplace(std::move(api));
  KubernetesLease::Options lease;
  lease.name = options.lease_name;
  ASSIGN_OR_RETURN(lease.name_space, leadership->api_->Namespace());
  ASSIGN_OR_RETURN(lease.identity, HolderIdentity(options.state_dir));
  lease.duration = options.lease_duration;
  lease.safety = SafetyMargin(options);
  leadership->lease_.emplace(std::move(lease), &*leadership->api_, clock);
  leadership->SetReason("the lease has not been asked for yet");
  return leadership;
}

Duration Leadership::SafetyMargin(const Options& options) {
  return options.wait_period + kLongestAttempt + kEnd;
}

std::string Leadership::why_not() const {
  MutexLock lock(mutex_);
  return why_not_;
}

void Leadership::SetReason(const std::string& reason) {
  MutexLock lock(mutex_);
  why_not_ = reason;
}

KubernetesLease::Standing Leadership::Attempt(uint64_t least_term) {
  absl::StatusOr<KubernetesLease::Standing> standing = lease_->TakeOrRenew(least_term);
  std::string trouble;
  if (!standing.ok()) {
    trouble = std::string(standing.status().message());
    standing = KubernetesLease::Standing{
        .held = lease_->held(), .term = 0, .waits_for = absl::StrCat("no lease: ", trouble)};
  }
  // Once, and again when it has changed.
  if (std::exchange(trouble_told_, trouble) != trouble && !trouble.empty())
    LogError("the lease cannot be asked for", {{"reason", trouble}});
  return *std::move(standing);
}

std::optional<uint64_t> Leadership::Wait(StopSignals& signals) {
  if (!lease_) return 0;
  std::string told;
  while (true) {
    const KubernetesLease::Standing standing = Attempt(0);
    if (standing.held) {
      LogInfo("holds the lease", {{"lease", options_.lease_name}, {"term", standing.term}});
      SetReason("");
      return standing.term;
    }
    SetReason(standing.waits_for);
    if (trouble_told_.empty() && std::exchange(told, standing.waits_for) != standing.waits_for)
      LogWarning("waiting", {{"reason", standing.waits_for}});
    if (signals.WaitFor(options_.wait_period)) return std::nullopt;
  }
}

bool Leadership::Keep(StopSignals& signals, const std::function<uint64_t()>& term) {
  if (!lease_) {
    while (!signals.WaitFor(std::chrono::seconds(3600))) {
    }
    return true;
  }
  while (true) {
    const KubernetesLease::Standing standing = Attempt(term());
    if (!standing.held) {
      const std::string reason =
          standing.waits_for.empty() ? "it was not renewed in time" : standing.waits_for;
      LogError("the lease is lost: members go on with the last topology", {{"reason", reason}});
      SetReason(reason);
      return false;
    }
    // After a failed renewal the next attempt comes sooner.
    if (signals.WaitFor(trouble_told_.empty() ? options_.renew_period : options_.wait_period))
      return true;
  }
}

void Leadership::Release() {
  if (!lease_) return;
  if (const absl::Status released = lease_->Release(); !released.ok()) {
    LogWarning("the lease is not given up: the next controller waits until it runs out",
               {{"reason", std::string(released.message())}});
  }
}

}  // namespace conclave::controller

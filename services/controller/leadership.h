// Whether this controller is the one that works: it is while it holds the Lease. Without a Lease it
// always is.
//
// Owned and called by the main thread, which waits in it; why_not may be asked from any.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "services/controller/kubernetes_api.h"
#include "services/controller/kubernetes_lease.h"
#include "shared/base/clock.h"
#include "shared/base/mutex.h"
#include "shared/base/signals.h"

namespace conclave::controller {

class Leadership {
 public:
  struct Options {
    std::string lease_name;           // empty: none
    std::string service_account_dir;  // of the pod
    std::string state_dir;            // controller-identity.json is kept here
    // A waiting controller looks this often, and a working one renews this often.
    Duration wait_period = std::chrono::milliseconds(500);
    Duration renew_period = std::chrono::seconds(2);
    Duration lease_duration = std::chrono::seconds(10);
  };
  // A read and a write, each cut off at half of this.
  static constexpr std::chrono::milliseconds kLongestAttempt{2000};
  // So long before its end a Lease counts as lost. It is looked at after each attempt to renew it;
  // the next look comes after a pause and another attempt.
  static Duration SafetyMargin(const Options& options);

  // FAILED_PRECONDITION outside of a pod, or without a service account.
  static absl::StatusOr<std::unique_ptr<Leadership>> Create(const Options& options,
                                                            const Clock* clock);

  // Waits until this process holds the Lease: its term; nullopt on a stop signal.
  std::optional<uint64_t> Wait(StopSignals& signals);

  // Keeps the Lease: true on a stop signal, false when the Lease is lost. `term` gives that of the
  // controller, for the Lease to remember.
  bool Keep(StopSignals& signals, const std::function<uint64_t()>& term);

  // Gives the Lease up, so that another takes it at once.
  void Release();

  // Why this controller does not work, for /readyz; empty while it does.
  std::string why_not() const EXCLUDES(mutex_);

 private:
  Leadership(const Options& options, const Clock* clock) : options_(options), clock_(clock) {}
  // One exchange; says in the log when something changed.
  KubernetesLease::Standing Attempt(uint64_t least_term);
  void SetReason(const std::string& reason) EXCLUDES(mutex_);

  const Options options_;
  const Clock* const clock_;
  std::optional<KubernetesApi> api_;
  std::optional<KubernetesLease> lease_;  // none: no Lease
  std::string trouble_told_;
  mutable Mutex mutex_;
  std::string why_not_ GUARDED_BY(mutex_);
};

}  // namespace conclave::controller

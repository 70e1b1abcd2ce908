// A Lease of Kubernetes (coordination.k8s.io/v1): of all controllers of a cluster one holds it, and
// its term is above all terms before.
//
// Not thread-safe: one thread calls it at a time, each call an exchange with the API server. Writes
// carry the resourceVersion that was read, so of two that write at once one fails. The Lease's
// leaseTransitions is the term of its holder.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "services/controller/kubernetes_api.h"
#include "shared/base/clock.h"

namespace conclave::controller {

class KubernetesLease {
 public:
  struct Options {
    std::string name;
    std::string name_space;
    // Who this process is; the same for a container that is started again in its pod, so that it
    // takes its Lease back at once.
    std::string identity;
    // A holder that has not renewed for so long has lost it.
    Duration duration = std::chrono::seconds(10);
    // held() ends this long before the Lease does: what passes until the owner asks again and has
    // ended.
    Duration safety = std::chrono::seconds(2);
  };
  struct Standing {
    bool held = false;      // by this process
    uint64_t term = 0;      // while held
    std::string waits_for;  // why it is not, for /readyz; empty while held
  };

  // Borrows both, which outlive it.
  KubernetesLease(Options options, const KubernetesApi* api, const Clock* clock);

  // Takes the Lease if it is free, expired or this process' own, with a term above `least_term` and
  // the Lease's; renews it if it is held. An error when the API server does not answer
  // (UNAVAILABLE) or refuses (PERMISSION_DENIED says which right is missing); what is held stays
  // held until it runs out.
  absl::StatusOr<Standing> TakeOrRenew(uint64_t least_term);

  // Whether this process may act as the holder: its last renewal is young enough.
  bool held() const;

  // Gives it up, so that the next one takes it at once. Does nothing when it is not held.
  absl::Status Release();

 private:
  struct Record {
    std::string resource_version;
    std::string holder;  // empty: free
    Duration duration{0};
    uint64_t transitions = 0;
    nlohmann::json object;  // the whole Lease
  };

  absl::StatusOr<std::optional<Record>> Read() const;
  // False when somebody else wrote meanwhile.
  absl::StatusOr<bool> Write(const std::optional<Record>& before, const std::string& holder,
                             uint64_t transitions) const;
  absl::Status Refusal(const char* verb, const KubernetesApi::Answer& answer) const;
  // Whether the holder has let it run out: nothing changed for its duration by our own clock.
  bool Expired(const Record& record);

  const Options options_;
  const KubernetesApi& api_;
  const Clock& clock_;
  const std::string collection_;  // path
  std::string seen_version_;
  TimePoint seen_since_{};
  bool held_ = false;
  uint64_t term_ = 0;
  TimePoint renewed_at_{};  // when the write that renewed it began
};

}  // namespace conclave::controller

// What the log and the metrics say about a request.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "services/gateway/generation.h"
#include "services/gateway/generation_sink.h"
#include "services/gateway/resume_token.h"
#include "services/gateway/text_model.h"
#include "shared/metrics/registry.h"

namespace conclave::gateway {

// Values of metrics' labels.
inline constexpr char kCachedTokens[] = "cached";
// An empty label is none at all to Prometheus.
std::string TenantLabel(const std::string& tenant);

struct RequestRecord {
  std::string request_id;
  std::string api;
  std::string tenant;
  std::string key_id;
  QosClass qos = QosClass::kInteractive;
  CacheStatus cache = CacheStatus::kNone;
  int64_t prompt_tokens = 0;
  std::string traceparent;
  TimePoint arrival;
  std::shared_ptr<TokenReservation> reservation;

  static RequestRecord Of(const Generation& generation, CacheStatus cache);
};

// A request has ended: says so, and charges its tokens to its key. `engine`: empty where none had a
// part in it.
void RecordEnd(metrics::Registry& registry, const RequestRecord& record, const absl::Status& status,
               int64_t completion_tokens, const std::string& engine, TimePoint now);
// The part of RecordEnd that is no metric.
void ChargeAndLogEnd(const RequestRecord& record, const absl::Status& status,
                     int64_t completion_tokens, const std::string& engine, TimePoint now);
// Gives the counters of requests that a share is made of their zeros: one that first appears with
// its first event seems not to have grown by it, and a share of what is not there is no share.
void DeclareCounters(metrics::Registry& registry);
// Counts a request that has ended, however far it came. `tenant`: empty where there is none, or was
// none yet.
void CountRequest(metrics::Registry& registry, const std::string& api, const std::string& tenant,
                  const absl::Status& status);

// What a request's answer begins with beside what was asked for.
struct Beginning {
  uint64_t seed = 0;  // that is drawn from
  const std::string& system_fingerprint;
  CacheStatus cache = CacheStatus::kNone;
};
// How a request's answer begins.
Started StartOf(const Generation& generation, const Beginning& beginning, const TextModel& model,
                const ResumeTokenSigner& signer);

}  // namespace conclave::gateway

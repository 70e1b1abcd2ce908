#include "services/gateway/request_record.h"

#include <gtest/gtest.h>

#include "services/gateway/identity/rate_limit.h"

namespace conclave::gateway {
namespace {

constexpr int64_t kPromptTokens = 10;

// What a request's end costs: its tenant by the metrics, and its key.
struct Cost {
  double tenant = 0;
  int64_t key = 0;
};

Cost CostOf(CacheStatus cache, const absl::Status& status, int64_t completion_tokens,
            const std::string& engine) {
  SimulatedClock clock;
  metrics::Registry registry;
  const auto limit = std::make_shared<RateLimit>(0, 1000, clock.Now());
  RequestRecord record;
  record.api = "chat";
  record.tenant = "acme";
  record.cache = cache;
  record.prompt_tokens = kPromptTokens;
  record.arrival = clock.Now();
  record.reservation = *TokenReservation::Make(limit, 100, clock.Now());
  RecordEnd(registry, record, status, completion_tokens, engine, clock.Now());
  double tenant = 0;
  const std::string metrics = registry.Expose();
  for (const char* const kind : {"prompt", "generated", "cached"}) {
    const std::string name =
        std::string("conclave_tenant_tokens_total{kind=\"") + kind + "\",tenant=\"acme\"} ";
    const size_t at = metrics.find(name);
    if (at != std::string::npos) tenant += std::stod(metrics.substr(at + name.size()));
  }
  return {.tenant = tenant, .key = 1000 - limit->tokens(clock.Now()).remaining};
}

TEST(RequestRecordTest, TenantAndKeyPayForTheSameTokens) {
  const struct {
    CacheStatus cache;
    absl::Status status;
    int64_t completion_tokens;
    const char* engine;
    int64_t wanted;
  } cases[] = {
      {CacheStatus::kNone, absl::OkStatus(), 5, "engine-0", 15},
      {CacheStatus::kMiss, absl::OkStatus(), 0, "engine-0", 10},
      {CacheStatus::kNone, absl::CancelledError("left"), 0, "engine-0", 10},
      {CacheStatus::kNone, absl::DeadlineExceededError("late"), 0, "engine-0", 10},
      {CacheStatus::kNone, absl::CancelledError("left while it waited"), 0, "", 0},
      {CacheStatus::kNone, absl::UnavailableError("lost"), 0, "engine-0", 0},
      {CacheStatus::kNone, absl::UnavailableError("lost half way"), 3, "engine-0", 13},
      {CacheStatus::kHit, absl::OkStatus(), 5, "", 15},
      {CacheStatus::kJoined, absl::OkStatus(), 5, "engine-0", 15},
      {CacheStatus::kJoined, absl::UnavailableError("lost"), 0, "engine-0", 0},
  };
  for (const auto& each : cases) {
    const Cost cost = CostOf(each.cache, each.status, each.completion_tokens, each.engine);
    EXPECT_EQ(cost.tenant, static_cast<double>(each.wanted)) << each.status;
    EXPECT_EQ(cost.key, each.wanted) << each.status;
  }
}

}  // namespace
}  // namespace conclave::gateway

// The counters of kept answers, found once for each API and tenant: of a request that is answered
// from the cache they would otherwise be a good part of the cost.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <string>

#include "services/gateway/request_record.h"
#include "shared/base/clock.h"
#include "shared/base/mutex.h"
#include "shared/base/qos_class.h"
#include "shared/metrics/registry.h"

namespace conclave::gateway {

class HitMetrics {
 public:
  // The registry outlives this.
  explicit HitMetrics(metrics::Registry* registry);

  // As RecordEnd counts a good answer of CacheStatus::kHit, and the tokens of prompt and answer.
  void Count(const RequestRecord& record, int64_t completion_tokens, TimePoint now)
      EXCLUDES(mutex_);

 private:
  struct Handles {
    metrics::Counter& requests;
    metrics::Counter& tenant_requests;
    metrics::Counter& tenant_tokens;
  };
  Handles Find(const RequestRecord& record) EXCLUDES(mutex_);

  metrics::Registry& registry_;
  metrics::Counter& prompt_tokens_;
  metrics::Counter& generated_tokens_;
  metrics::Counter& hits_;
  PerClass<metrics::Histogram*> seconds_;
  Mutex mutex_;
  std::map<std::string, Handles> handles_ GUARDED_BY(mutex_);  // by tenant, a line feed, API
};

}  // namespace conclave::gateway

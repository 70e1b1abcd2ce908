// The engine's metrics, by name once; the handles are the registry's.
#pragma once

#include "absl/status/status.h"
#include "shared/metrics/registry.h"

namespace conclave::engine {

class EngineMetrics {
 public:
  // The registry outlives this object.
  explicit EngineMetrics(metrics::Registry* registry);

  // Counts a sequence that failed.
  void CountError(absl::StatusCode code);

  metrics::Gauge& queue_depth;
  metrics::Gauge& queued_tokens;
  metrics::Histogram& queue_wait_seconds;
  metrics::Gauge& sequences_running;
  metrics::Gauge& parked_sequences;
  metrics::Histogram& batch_rows;
  metrics::Histogram& batch_sequences;
  metrics::Counter& prefill_tokens;
  metrics::Counter& decode_tokens;
  metrics::Histogram& schedule_seconds;
  metrics::Histogram& forward_seconds;
  metrics::Histogram& experts_seconds;
  metrics::Histogram& sample_seconds;
  metrics::Histogram& step_seconds;
  metrics::Gauge& kv_used_ratio;
  metrics::Gauge& kv_blocks_used;
  metrics::Gauge& kv_blocks_cached;
  metrics::Gauge& kv_blocks_empty;
  metrics::Counter& prefix_hit_tokens;
  metrics::Counter& prefix_miss_tokens;
  metrics::Counter& preemptions;

 private:
  metrics::Registry& registry_;
};

}  // namespace conclave::engine

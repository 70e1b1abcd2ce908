#include "services/engine/engine_metrics.h"

#include <string>

namespace conclave::engine {

EngineMetrics::EngineMetrics(metrics::Registry* registry)
    : queue_depth(registry->GetGauge("conclave_queue_depth")),
      queued_tokens(registry->GetGauge("conclave_queued_tokens")),
      queue_wait_seconds(registry->GetHistogram("conclave_queue_wait_seconds")),
      sequences_running(registry->GetGauge("conclave_sequences_running")),
      parked_sequences(registry->GetGauge("conclave_parked_sequences")),
      batch_rows(registry->GetHistogram("conclave_batch_rows")),
      batch_sequences(registry->GetHistogram("conclave_batch_sequences")),
      prefill_tokens(registry->GetCounter("conclave_step_tokens_total", {{"kind", "prefill"}})),
      decode_tokens(registry->GetCounter("conclave_step_tokens_total", {{"kind", "decode"}})),
      schedule_seconds(registry->GetHistogram("conclave_step_seconds", {{"phase", "schedule"}})),
      forward_seconds(registry->GetHistogram("conclave_step_seconds", {{"phase", "forward"}})),
      experts_seconds(registry->GetHistogram("conclave_step_seconds", {{"phase", "experts"}})),
      sample_seconds(registry->GetHistogram("conclave_step_seconds", {{"phase", "sample"}})),
      step_seconds(registry->GetHistogram("conclave_step_seconds", {{"phase", "total"}})),
      kv_used_ratio(registry->GetGauge("conclave_kv_used_ratio")),
      kv_blocks_used(registry->GetGauge("conclave_kv_blocks", {{"state", "used"}})),
      kv_blocks_cached(registry->GetGauge("conclave_kv_blocks", {{"state", "cached"}})),
      kv_blocks_empty(registry->GetGauge("conclave_kv_blocks", {{"state", "empty"}})),
      prefix_hit_tokens(
          registry->GetCounter("conclave_prefix_cache_tokens_total", {{"result", "hit"}})),
      prefix_miss_tokens(
          registry->GetCounter("conclave_prefix_cache_tokens_total", {{"result", "miss"}})),
      preemptions(registry->GetCounter("conclave_preemptions_total")),
      registry_(*registry) {}

void EngineMetrics::CountError(absl::StatusCode code) {
  registry_.GetCounter("conclave_errors_total", {{"code", absl::StatusCodeToString(code)}})
      .Increment();
}

}  // namespace conclave::engine

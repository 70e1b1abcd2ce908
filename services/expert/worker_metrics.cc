#include "services/expert/worker_metrics.h"

#include <string>

namespace conclave::expert {

WorkerMetrics::WorkerMetrics(metrics::Registry* registry)
    : frames(registry->GetCounter("conclave_worker_frames_total")),
      queue_seconds(registry->GetHistogram("conclave_worker_queue_seconds")),
      queue_bytes(registry->GetGauge("conclave_worker_queue_bytes")),
      unit_seconds(registry->GetHistogram("conclave_worker_unit_seconds")),
      unit_rows(registry->GetHistogram("conclave_worker_unit_rows")),
      experts(registry->GetGauge("conclave_worker_experts")),
      resident_bytes(registry->GetGauge("conclave_worker_resident_bytes")),
      registry_(*registry) {}

void WorkerMetrics::AddRows(int32_t layer, int32_t expert, int64_t rows) {
  metrics::Counter*& counter = rows_[{layer, expert}];
  if (counter == nullptr) {
    counter = &registry_.GetCounter(
        "conclave_worker_rows_total",
        {{"layer", std::to_string(layer)}, {"expert", std::to_string(expert)}});
  }
  counter->Increment(static_cast<double>(rows));
}

void WorkerMetrics::SetQuantizationError(double ratio) {
  registry_.GetGauge("conclave_quantization_error_ratio", {{"kind", "experts"}}).Set(ratio);
}

}  // namespace conclave::expert

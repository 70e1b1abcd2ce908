#include "services/engine/dispatch/dispatch_metrics.h"

namespace conclave::engine {

DispatchMetrics::DispatchMetrics(metrics::Registry* registry, int32_t num_experts)
    : registry_(registry), num_experts_(num_experts) {
  if (registry_ == nullptr) return;
  // From zero on: a counter that appears with its first event seems not to have grown by it.
  for (const char* const code : {"NOT_HELD", "DEADLINE_EXCEEDED", "UNAVAILABLE"}) {
    registry_->GetCounter("conclave_expert_call_errors_total", {{"code", code}});
  }
}

void DispatchMetrics::CountRows(int32_t layer, std::span<const int32_t> expert_ids) {
  if (registry_ == nullptr || num_experts_ == 0) return;
  rows_of_.assign(num_experts_, 0);
  for (const int32_t expert : expert_ids) ++rows_of_[expert];
  int32_t active = 0;
  for (int32_t expert = 0; expert < num_experts_; ++expert) {
    if (rows_of_[expert] == 0) continue;
    ++active;
    metrics::Counter*& counter = rows_[{layer, expert}];
    if (counter == nullptr) {
      counter = &registry_->GetCounter(
          "conclave_expert_rows_total",
          {{"layer", std::to_string(layer)}, {"expert", std::to_string(expert)}});
    }
    counter->Increment(static_cast<double>(rows_of_[expert]));
  }
  registry_->GetHistogram("conclave_active_expert_ratio")
      .Observe(static_cast<double>(active) / num_experts_);
}

void DispatchMetrics::CountCall(const std::string& worker, double seconds) {
  if (registry_ == nullptr) return;
  metrics::Histogram*& histogram = calls_[worker];
  if (histogram == nullptr) {
    histogram = &registry_->GetHistogram("conclave_expert_call_seconds", {{"worker", worker}});
  }
  histogram->Observe(seconds);
}

void DispatchMetrics::CountLinks(int64_t shared_memory, int64_t grpc) {
  if (registry_ == nullptr) return;
  registry_->GetGauge("conclave_worker_links", {{"transport", "shared_memory"}})
      .Set(static_cast<double>(shared_memory));
  registry_->GetGauge("conclave_worker_links", {{"transport", "grpc"}})
      .Set(static_cast<double>(grpc));
}

void DispatchMetrics::CountError(std::string_view code) {
  if (registry_ == nullptr) return;
  registry_->GetCounter("conclave_expert_call_errors_total", {{"code", std::string(code)}})
      .Increment();
}

}  // namespace conclave::engine

#include "services/gateway/request_metrics.h"

#include <chrono>

namespace conclave::gateway {

namespace {

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

}  // namespace

RequestMetrics::RequestMetrics(metrics::Registry* registry)
    : prompt_tokens(registry->GetCounter("conclave_prompt_tokens_total")),
      generated_tokens(registry->GetCounter("conclave_generated_tokens_total")),
      registry_(*registry),
      time_per_output_token_seconds_(
          registry->GetHistogram("conclave_time_per_output_token_seconds")) {
  for (const QosClass qos : kQosClasses) {
    const metrics::Labels labels = {{"class", QosClassName(qos)}};
    of_class_[IndexOf(qos)] = {
        .wait_seconds = &registry->GetHistogram("conclave_gateway_queue_wait_seconds", labels),
        .first_token_seconds =
            &registry->GetHistogram("conclave_time_to_first_token_seconds", labels),
        .requests = &registry->GetGauge("conclave_gateway_queue_requests", labels),
        .tokens = &registry->GetGauge("conclave_gateway_queue_tokens", labels),
        .oldest_seconds = &registry->GetGauge("conclave_gateway_queue_oldest_seconds", labels)};
  }
}

void RequestMetrics::Waited(QosClass qos, Duration waited) {
  of_class_[IndexOf(qos)].wait_seconds->Observe(Seconds(waited));
}

void RequestMetrics::FirstToken(QosClass qos, Duration took) {
  of_class_[IndexOf(qos)].first_token_seconds->Observe(Seconds(took));
}

void RequestMetrics::Ended(const RunningRequest& request) {
  for (const double seconds : request.SecondsPerToken()) {
    time_per_output_token_seconds_.Observe(seconds);
  }
  for (const FinishReason reason : request.FinishReasons()) {
    registry_.GetCounter("conclave_finished_choices_total", {{"reason", FinishReasonName(reason)}})
        .Increment();
  }
}

void RequestMetrics::Show(const FairQueue& queue, TimePoint now) {
  for (const QosClass qos : kQosClasses) {
    const OfClass& of_class = of_class_[IndexOf(qos)];
    of_class.requests->Set(static_cast<double>(queue.size(qos)));
    of_class.tokens->Set(queue.cost(qos));
    of_class.oldest_seconds->Set(Seconds(queue.OldestWait(qos, now)));
  }
}

}  // namespace conclave::gateway

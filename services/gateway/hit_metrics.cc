#include "services/gateway/hit_metrics.h"

#include <chrono>

namespace conclave::gateway {

HitMetrics::HitMetrics(metrics::Registry* registry)
    : registry_(*registry),
      prompt_tokens_(registry->GetCounter("conclave_prompt_tokens_total")),
      generated_tokens_(registry->GetCounter("conclave_generated_tokens_total")),
      hits_(registry->GetCounter("conclave_cache_requests_total",
                                 {{"result", CacheStatusName(CacheStatus::kHit)}})) {
  for (const QosClass qos : kQosClasses) {
    seconds_[IndexOf(qos)] =
        &registry->GetHistogram("conclave_request_seconds", {{"class", QosClassName(qos)}});
  }
}

HitMetrics::Handles HitMetrics::Find(const RequestRecord& record) {
  std::string name = record.tenant;
  name.append(1, '\n').append(record.api);
  MutexLock lock(mutex_);
  const auto found = handles_.find(name);
  if (found != handles_.end()) return found->second;
  const std::string tenant = TenantLabel(record.tenant);
  const Handles handles = {
      .requests =
          registry_.GetCounter("conclave_requests_total", {{"api", record.api}, {"code", "OK"}}),
      .tenant_requests = registry_.GetCounter("conclave_tenant_requests_total",
                                              {{"tenant", tenant}, {"code", "OK"}}),
      .tenant_tokens = registry_.GetCounter("conclave_tenant_tokens_total",
                                            {{"tenant", tenant}, {"kind", kCachedTokens}})};
  return handles_.emplace(std::move(name), handles).first->second;
}

void HitMetrics::Count(const RequestRecord& record, int64_t completion_tokens, TimePoint now) {
  const Handles handles = Find(record);
  handles.requests.Increment();
  handles.tenant_requests.Increment();
  handles.tenant_tokens.Increment(static_cast<double>(record.prompt_tokens + completion_tokens));
  prompt_tokens_.Increment(static_cast<double>(record.prompt_tokens));
  generated_tokens_.Increment(static_cast<double>(completion_tokens));
  hits_.Increment();
  seconds_[IndexOf(record.qos)]->Observe(
      std::chrono::duration<double>(now - record.arrival).count());
}

}  // namespace conclave::gateway

#include "services/gateway/qos/running_places.h"

namespace conclave::gateway {

RunningPlaces::RunningPlaces(int32_t capacity, const PerClass<double>& class_shares)
    : capacity_(capacity) {
  for (size_t i = 0; i < kNumQosClasses; ++i) {
    most_[i] = capacity - static_cast<int32_t>(capacity * (1 - class_shares[i]));
  }
}

int32_t RunningPlaces::of(const std::string& tenant) const {
  const auto found = by_tenant_.find(tenant);
  return found == by_tenant_.end() ? 0 : found->second;
}

void RunningPlaces::Take(const std::string& tenant) {
  ++taken_;
  ++by_tenant_[tenant];
}

void RunningPlaces::GiveBack(const std::string& tenant) {
  --taken_;
  const auto found = by_tenant_.find(tenant);
  if (--found->second == 0) by_tenant_.erase(found);
}

}  // namespace conclave::gateway

// How many requests run, of whom, and whether another one of a class may: no class may fill all
// places, so that a more urgent request does not wait for one.
//
// Pure; owned by the core thread.
#pragma once

#include <cstdint>
#include <string>
#include <unordered_map>

#include "shared/base/qos_class.h"

namespace conclave::gateway {

class RunningPlaces {
 public:
  // `class_shares`: of the capacity, how much may be taken when a request of a class takes another
  // place, in (0, 1].
  RunningPlaces(int32_t capacity, const PerClass<double>& class_shares);

  // When nothing runs, every class has one.
  bool HasPlace(QosClass qos) const { return taken_ == 0 || taken_ < most_[IndexOf(qos)]; }
  bool full() const { return taken_ >= capacity_; }
  int32_t taken() const { return taken_; }
  int32_t of(const std::string& tenant) const;

  void Take(const std::string& tenant);
  // Precondition: the tenant has one.
  void GiveBack(const std::string& tenant);

 private:
  const int32_t capacity_;
  PerClass<int32_t> most_{};
  std::unordered_map<std::string, int32_t> by_tenant_;
  int32_t taken_ = 0;
};

}  // namespace conclave::gateway

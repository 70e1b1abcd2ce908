#include "services/expert/in_flight_limit.h"

#include <utility>

namespace conclave::expert {

void InFlightLimit::Add(size_t bytes) {
  MutexLock lock(mutex_);
  bytes_ += bytes;
}

void InFlightLimit::Subtract(size_t bytes) {
  std::vector<std::function<void()>> resumed;
  {
    MutexLock lock(mutex_);
    bytes_ -= bytes;
    if (bytes_ < limit_bytes_) resumed.swap(waiting_);
  }
  for (const auto& resume : resumed) resume();
}

bool InFlightLimit::WaitIfFull(std::function<void()> resume) {
  MutexLock lock(mutex_);
  if (bytes_ < limit_bytes_) return false;
  waiting_.push_back(std::move(resume));
  return true;
}

bool InFlightLimit::full() const {
  MutexLock lock(mutex_);
  return bytes_ >= limit_bytes_;
}

size_t InFlightLimit::bytes() const {
  MutexLock lock(mutex_);
  return bytes_;
}

}  // namespace conclave::expert

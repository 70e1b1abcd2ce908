// How many requests are in the gateway at once, of whom: prepared, waiting or running.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <unordered_map>

#include "shared/base/clock.h"
#include "shared/base/mutex.h"

namespace conclave::gateway {

// A place among those requests; given back when destroyed.
using Admission = std::shared_ptr<void>;

// Counts the places taken. Thread-safe.
class Places {
 public:
  // kShare: what is free is kept for other tenants. A tenant may have so many times as many places
  // as are free (dynamic thresholds: Choudhury and Hahne, "Dynamic Queue Length Thresholds for
  // Shared-Memory Packet Switches", IEEE/ACM Transactions on Networking, 1998, section 2): alone
  // eight ninths of all, and of several each the same, so that a newcomer always finds one.
  enum class Taken : uint8_t { kYes, kFull, kShare };
  Taken TryTake(int32_t capacity, const std::string& tenant) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (closed_ || taken_ >= capacity) return Taken::kFull;
    int32_t& of_tenant = by_tenant_[tenant];
    if (of_tenant >= kTimesFree * static_cast<int64_t>(capacity - taken_)) return Taken::kShare;
    ++of_tenant;
    ++taken_;
    return Taken::kYes;
  }
  void GiveBack(const std::string& tenant) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    const auto found = by_tenant_.find(tenant);
    if (--found->second == 0) by_tenant_.erase(found);
    if (--taken_ == 0) empty_.NotifyAll();
  }
  // No place is taken from now on.
  void Close() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    closed_ = true;
  }
  // False when the timeout passed first.
  bool WaitUntilEmpty(Duration timeout) EXCLUDES(mutex_) {
    const auto deadline = std::chrono::steady_clock::now() + timeout;
    MutexLock lock(mutex_);
    while (taken_ > 0) {
      if (!empty_.WaitUntil(mutex_, deadline)) return taken_ == 0;
    }
    return true;
  }
  int32_t taken() const EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    return taken_;
  }

 private:
  static constexpr int64_t kTimesFree = 8;

  mutable Mutex mutex_;
  CondVar empty_;
  std::unordered_map<std::string, int32_t> by_tenant_ GUARDED_BY(mutex_);
  bool closed_ GUARDED_BY(mutex_) = false;
  int32_t taken_ GUARDED_BY(mutex_) = 0;
};

}  // namespace conclave::gateway

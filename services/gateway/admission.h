// How many requests run at once.
#pragma once

#include <chrono>
#include <cstdint>
#include <memory>

#include "shared/base/clock.h"
#include "shared/base/mutex.h"

namespace conclave::gateway {

// A place among the requests that may run at once; given back when destroyed.
using Admission = std::shared_ptr<void>;

// Counts the places taken. Thread-safe.
class Places {
 public:
  bool TryTake(int32_t capacity) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (closed_ || taken_ >= capacity) return false;
    ++taken_;
    return true;
  }
  void GiveBack() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
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
  mutable Mutex mutex_;
  CondVar empty_;
  bool closed_ GUARDED_BY(mutex_) = false;
  int32_t taken_ GUARDED_BY(mutex_) = 0;
};

}  // namespace conclave::gateway

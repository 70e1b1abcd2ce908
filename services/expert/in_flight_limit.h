// Bounds the bytes of frames inside the worker: streams that would exceed the limit stop reading
// until there is room again.
//
// Shared by all streams of a worker. Thread-safe; callbacks run on the thread that made room,
// without a lock.
#pragma once

#include <cstddef>
#include <functional>
#include <vector>

#include "shared/base/mutex.h"

namespace conclave::expert {

class InFlightLimit {
 public:
  explicit InFlightLimit(size_t limit_bytes) : limit_bytes_(limit_bytes) {}

  void Add(size_t bytes) EXCLUDES(mutex_);
  // Calls everyone who waits once the bytes are below the limit.
  void Subtract(size_t bytes) EXCLUDES(mutex_);

  // True if the limit is reached: `resume` is then called once there is room. False: go on.
  bool WaitIfFull(std::function<void()> resume) EXCLUDES(mutex_);

  bool full() const EXCLUDES(mutex_);
  size_t bytes() const EXCLUDES(mutex_);

 private:
  const size_t limit_bytes_;
  mutable Mutex mutex_;
  size_t bytes_ GUARDED_BY(mutex_) = 0;
  std::vector<std::function<void()>> waiting_ GUARDED_BY(mutex_);
};

}  // namespace conclave::expert

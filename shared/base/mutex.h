// std::mutex and std::condition_variable with Clang's thread-safety annotations.
//
// Used everywhere instead of absl::Mutex: ThreadSanitizer reports false races on Debian's build of
// the latter.
#pragma once

#include <chrono>
#include <condition_variable>
#include <mutex>

#include "absl/base/thread_annotations.h"  // GUARDED_BY, which Abseil's headers define anyway

#if defined(__clang__)
#define CONCLAVE_THREAD_ANNOTATION_(x) __attribute__((x))
#else
#define CONCLAVE_THREAD_ANNOTATION_(x)
#endif

#define CAPABILITY(x) CONCLAVE_THREAD_ANNOTATION_(capability(x))
#define SCOPED_CAPABILITY CONCLAVE_THREAD_ANNOTATION_(scoped_lockable)
#define REQUIRES(...) CONCLAVE_THREAD_ANNOTATION_(requires_capability(__VA_ARGS__))
#define EXCLUDES(...) CONCLAVE_THREAD_ANNOTATION_(locks_excluded(__VA_ARGS__))
#define ACQUIRE(...) CONCLAVE_THREAD_ANNOTATION_(acquire_capability(__VA_ARGS__))
#define RELEASE(...) CONCLAVE_THREAD_ANNOTATION_(release_capability(__VA_ARGS__))

namespace conclave {

class CAPABILITY("mutex") Mutex {
 public:
  void Lock() ACQUIRE() { mutex_.lock(); }
  void Unlock() RELEASE() { mutex_.unlock(); }

 private:
  friend class CondVar;
  std::mutex mutex_;
};

// Holds the mutex for the life of the object.
class SCOPED_CAPABILITY MutexLock {
 public:
  explicit MutexLock(Mutex& mutex) ACQUIRE(mutex) : mutex_(mutex) { mutex_.Lock(); }
  ~MutexLock() RELEASE() { mutex_.Unlock(); }
  MutexLock(const MutexLock&) = delete;
  MutexLock& operator=(const MutexLock&) = delete;

 private:
  Mutex& mutex_;
};

// Waits release the mutex and hold it again on return. Every wait has a deadline
// (docs/architecture.md, "Threads").
class CondVar {
 public:
  // Returns false if the deadline passed. May wake spuriously: wait in a loop on a condition.
  bool WaitUntil(Mutex& mutex, std::chrono::steady_clock::time_point deadline) REQUIRES(mutex) {
    std::unique_lock<std::mutex> lock(mutex.mutex_, std::adopt_lock);
    const bool notified = condition_.wait_until(lock, deadline) == std::cv_status::no_timeout;
    lock.release();
    return notified;
  }
  bool WaitFor(Mutex& mutex, std::chrono::nanoseconds timeout) REQUIRES(mutex) {
    return WaitUntil(mutex, std::chrono::steady_clock::now() + timeout);
  }
  void NotifyOne() { condition_.notify_one(); }
  void NotifyAll() { condition_.notify_all(); }

 private:
  std::condition_variable condition_;
};

}  // namespace conclave

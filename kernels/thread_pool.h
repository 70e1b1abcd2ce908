// A fixed set of threads that run the parts of one kernel at a time.
//
// Owned by a service's compute thread, which takes part in the work itself; ParallelFor is called
// from that thread only. How work is cut never changes a result (docs/numerics.md). Idle threads
// spin for some microseconds, then sleep.
#pragma once

#include <cstdint>
#include <memory>
#include <type_traits>

namespace conclave::kernels {

class ThreadPool {
 public:
  // `num_threads` >= 1 counts the calling thread. Workers are named "compute-N".
  explicit ThreadPool(int num_threads);
  ~ThreadPool();  // joins
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;

  // Calls body(int64_t begin, int64_t end, int thread) for disjoint ranges that cover [0, count),
  // each at least `grain` long but the last; count < 2^32; `thread` is in [0, num_threads), and one
  // thread may get several ranges. Returns when all are done. Allocates nothing. Not reentrant: a
  // body must not call it.
  template <typename Body>
  void ParallelFor(int64_t count, int64_t grain, Body&& body) {
    using Plain = std::remove_reference_t<Body>;
    Run(count, grain, const_cast<void*>(static_cast<const void*>(&body)),
        [](void* context, int64_t begin, int64_t end, int thread) {
          (*static_cast<Plain*>(context))(begin, end, thread);
        });
  }

 private:
  using RangeFunction = void (*)(void* context, int64_t begin, int64_t end, int thread);
  void Run(int64_t count, int64_t grain, void* context, RangeFunction function);

  class State;
  std::unique_ptr<State> state_;
};

}  // namespace conclave::kernels

// A fixed set of threads that run the parts of one kernel at a time.
//
// Owned by a service's compute thread, which takes part in the work itself; ParallelFor is called from that thread only.
// How work is cut never changes a result (docs/numerics.md).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>

namespace conclave::kernels {

class ThreadPool {
 public:
  // `num_threads` >= 1 counts the calling thread. Workers are named "compute-N".
  explicit ThreadPool(int num_threads);
  ~ThreadPool();  // joins
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const;

  // Calls body(begin, end, thread) for disjoint ranges that cover [0, count), each at least `grain` long but the last;
  // `thread` is in [0, num_threads). Returns when all are done.
  void ParallelFor(int64_t count, int64_t grain,
                   const std::function<void(int64_t begin, int64_t end, int thread)>& body);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace conclave::kernels

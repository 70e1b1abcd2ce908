#include "kernels/thread_pool.h"

#include <pthread.h>

#include <algorithm>
#include <atomic>
#include <string>
#include <thread>
#include <vector>

namespace conclave::kernels {
namespace {

// Kernels of one step follow each other within microseconds; a sleep and a wake cost about 50. So
// threads spin for about 20 microseconds, and then leave the core to the other processes of the
// machine.
constexpr int kSpins = 800;

// A thread takes so large a share of what is left, divided by the number of threads: the first
// parts are long, and the last ones short, so that all threads end at the same time though one was
// descheduled (guided self-scheduling: Polychronopoulos and Kuck, IEEE Trans. Computers 36(12),
// 1987).
constexpr uint32_t kShareOfRest = 2;

void Pause() { __builtin_ia32_pause(); }

}  // namespace

class ThreadPool::State {
 public:
  explicit State(int num_threads) {
    for (int i = 1; i < num_threads; ++i) {
      workers_.emplace_back([this, i] { WorkerLoop(i); });
      pthread_setname_np(workers_.back().native_handle(), ("compute-" + std::to_string(i)).c_str());
    }
  }

  ~State() {
    stop_.store(true, std::memory_order_relaxed);
    epoch_.fetch_add(1, std::memory_order_release);
    epoch_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  int num_threads() const { return static_cast<int>(workers_.size()) + 1; }

  void Run(int64_t count, int64_t grain, void* context, RangeFunction function) {
    grain = std::max<int64_t>(grain, 1);
    if (workers_.empty() || count <= grain) {
      if (count > 0) function(context, 0, count, 0);
      return;
    }
    job_ = {static_cast<uint32_t>(count), context, function};
    grain_.store(static_cast<uint32_t>(grain), std::memory_order_relaxed);
    unfinished_.store(job_.count, std::memory_order_relaxed);
    const uint32_t epoch = epoch_.load(std::memory_order_relaxed) + 1;
    // The release publishes job_ and unfinished_ to whoever claims a part of this epoch.
    unclaimed_.store(static_cast<uint64_t>(epoch) << 32 | job_.count, std::memory_order_release);
    epoch_.store(epoch, std::memory_order_release);
    epoch_.notify_all();
    RunParts(0);
    for (int spin = 0; spin < kSpins; ++spin) {
      if (unfinished_.load(std::memory_order_acquire) == 0) return;
      Pause();
    }
    for (;;) {
      const uint32_t left = unfinished_.load(std::memory_order_acquire);
      if (left == 0) return;
      unfinished_.wait(left, std::memory_order_acquire);
    }
  }

 private:
  struct Job {
    uint32_t count = 0;
    void* context = nullptr;
    RangeFunction function = nullptr;
  };

  // Claims and runs parts until none is left. A successful claim keeps its job alive: Run returns
  // only when every claimed item is finished. A thread that comes too late finds none, or those of
  // a newer job, and never touches the old one.
  void RunParts(int thread) {
    const uint32_t shares = kShareOfRest * static_cast<uint32_t>(num_threads());
    uint64_t ticket = unclaimed_.load(std::memory_order_acquire);
    while (const uint32_t left = static_cast<uint32_t>(ticket)) {
      // A grain of a newer job goes with a ticket that is no longer good.
      const uint32_t grain = grain_.load(std::memory_order_relaxed);
      const uint32_t length = std::min(left, std::max(grain, left / shares));
      if (!unclaimed_.compare_exchange_weak(ticket, ticket - length, std::memory_order_acq_rel,
                                            std::memory_order_acquire)) {
        continue;
      }
      const int64_t begin = job_.count - left;
      job_.function(job_.context, begin, begin + length, thread);
      if (unfinished_.fetch_sub(length, std::memory_order_acq_rel) == length) {
        unfinished_.notify_one();
      }
      ticket = unclaimed_.load(std::memory_order_acquire);
    }
  }

  void WorkerLoop(int thread) {
    uint32_t seen = 0;
    for (;;) {
      for (int spin = 0; spin < kSpins && epoch_.load(std::memory_order_acquire) == seen; ++spin) {
        Pause();
      }
      epoch_.wait(seen, std::memory_order_acquire);
      seen = epoch_.load(std::memory_order_acquire);
      if (stop_.load(std::memory_order_relaxed)) return;
      RunParts(thread);
    }
  }

  Job job_;
  std::atomic<uint32_t> grain_{1};
  std::atomic<uint64_t> unclaimed_{0};  // epoch << 32 | items not yet claimed
  std::atomic<uint32_t> unfinished_{0};
  std::atomic<uint32_t> epoch_{0};  // counts jobs; idle threads wait for it to change
  std::atomic<bool> stop_{false};
  std::vector<std::thread> workers_;
};

ThreadPool::ThreadPool(int num_threads) : state_(std::make_unique<State>(num_threads)) {}
ThreadPool::~ThreadPool() = default;

int ThreadPool::num_threads() const { return state_->num_threads(); }

void ThreadPool::Run(int64_t count, int64_t grain, void* context, RangeFunction function) {
  state_->Run(count, grain, context, function);
}

}  // namespace conclave::kernels

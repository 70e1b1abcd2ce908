// The worker's compute thread: takes frames from the streams, plans units of work, computes them,
// and answers.
//
// Submit, Cancel, CloseStream and the sources' are called on any thread; everything else happens on
// the one thread that this object owns, which alone touches the queue and the kernels' context.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <thread>
#include <variant>
#include <vector>

#include "kernels/context.h"
#include "services/expert/frame_queue.h"
#include "services/expert/pending_frame.h"
#include "services/expert/unit_rate.h"
#include "services/expert/worker_metrics.h"
#include "shared/base/bounded_queue.h"
#include "shared/base/clock.h"
#include "shared/base/mutex.h"
#include "shared/experts/expert_set.h"
#include "shared/shm/shared_doorbell.h"

namespace conclave::expert {

// A stream whose frames nobody brings: the compute thread looks into it whenever the doorbell rang.
class FrameSource {
 public:
  virtual ~FrameSource() = default;
  // Submits what has come, and goes on with what could not be sent. On the compute thread.
  virtual void Poll() = 0;
};

struct ComputeOptions {
  kernels::CpuLevel cpu_level = kernels::CpuLevel::kReference;
  int num_threads = 1;
  // Predicted length of a unit: how long an urgent frame waits at most behind others.
  double unit_budget_ns = 1e6;
  // Frames that may wait for the compute thread to take them; more are refused.
  size_t max_arrivals = 4096;
};

class ComputeLoop {
 public:
  // Borrows all, which outlive it. Starts the thread ("expert-compute").
  ComputeLoop(const ComputeOptions& options, const experts::ExpertSet* experts, const Clock* clock,
              WorkerMetrics* metrics);
  ~ComputeLoop();  // stops after the unit in work; frames that wait are dropped

  // False, and `frame` is left as it is, when too many frames wait.
  bool Submit(std::unique_ptr<PendingFrame>&& frame);
  // Drops the call, or all calls of a stream: nothing more is sent for them. A unit in work is
  // finished and its rows thrown away.
  void Cancel(uint64_t stream, uint64_t call_id);
  void CloseStream(uint64_t stream);

  // `source` is polled until it is removed; a poll that is under way then still ends after it.
  void AddSource(std::shared_ptr<FrameSource> source) EXCLUDES(mutex_);
  void RemoveSource(const FrameSource* source) EXCLUDES(mutex_);
  // Rung by whoever has something for the compute thread, in this process or another.
  const shm::SharedDoorbell& doorbell() const { return doorbell_; }

  // Frames taken and not completely answered.
  int64_t pending() const { return pending_.load(); }
  // Frames ever taken.
  uint64_t num_frames() const { return num_frames_.load(); }
  double rows_per_second() const { return rows_per_second_.load(); }
  double queue_ms() const {
    return queue_ms_.load();
  }  // wait of the latest frames until their first unit

 private:
  struct CancelCall {
    uint64_t stream, call_id;
  };
  struct CancelStream {
    uint64_t stream;
  };
  using Arrival = std::variant<std::unique_ptr<PendingFrame>, CancelCall, CancelStream>;

  void Run();
  void PollSources() EXCLUDES(mutex_);
  bool Push(Arrival&& arrival);
  void TakeArrivals();
  void Drop(std::unique_ptr<PendingFrame> frame);
  void DropExpired();
  void RunUnit();
  // Answers the unit's rows whose experts are not held, and takes them out of it.
  void AnswerNotHeld(Unit& unit);
  void Compute(const Unit& unit);
  void FinishAnswered(const Unit& unit);
  void MeasureRate(int64_t rows);

  const ComputeOptions options_;
  const experts::ExpertSet& experts_;
  const Clock& clock_;
  WorkerMetrics& metrics_;

  const shm::SharedDoorbell doorbell_{"conclave-expert-bell"};
  BoundedQueue<Arrival> arrivals_;
  Mutex mutex_;
  std::vector<std::shared_ptr<FrameSource>> sources_ GUARDED_BY(mutex_);
  std::atomic<bool> stopping_{false};
  std::atomic<int64_t> pending_{0};
  std::atomic<uint64_t> num_frames_{0};
  std::atomic<double> rows_per_second_{0};
  std::atomic<double> queue_ms_{0};

  // The compute thread's own.
  std::vector<std::shared_ptr<FrameSource>> polled_;  // kept for its memory
  std::unique_ptr<kernels::Context> context_;
  experts::ExpertScratch scratch_;
  FrameQueue queue_;
  UnitRate rate_;
  TimePoint rate_since_;
  int64_t rate_rows_ = 0;

  std::thread thread_;
};

}  // namespace conclave::expert

// The engine's one compute thread ("step"): takes commands, turns the stepper, sleeps when there is
// nothing to do.
//
// Commands come from any thread through a bounded queue and wake the loop at once. The loop owns
// the stepper's thread, not the stepper, which outlives it.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "services/engine/stepper.h"
#include "shared/base/bounded_queue.h"
#include "shared/base/clock.h"
#include "shared/base/mutex.h"

namespace conclave::engine {

// What the loop last reported of itself.
struct EngineLoad {
  bool warm = false;  // the warm-up is done: the engine is ready
  int32_t running = 0;
  int32_t waiting = 0;
  int64_t queued_tokens = 0;
  double kv_used_ratio = 0;
  double tokens_per_second = 0;  // generated, over about the last five seconds
  Duration last_turn_age{};  // since the loop last turned, idle turns counted; grows when it hangs
  absl::Status warm_up;      // while not warm: why not, such as a missing expert
  // (layer, expert) without a live worker, as of some tenths of a second ago.
  std::vector<std::pair<int32_t, int32_t>> missing_experts;
};

class StepLoop {
 public:
  struct Options {
    int32_t max_queued_starts = 1280;  // commands to start that the loop has not taken yet
    // Called on the step thread about once a second, as long as it turns; must not block. May be
    // null.
    std::function<void()> on_turn = {};
  };
  // Starts the thread, which warms up first.
  StepLoop(const Options& options, Stepper* stepper, const KvCache* cache, const Clock* clock);
  ~StepLoop();  // Stop

  // All thread-safe. Start takes a validated request: RESOURCE_EXHAUSTED when the queue is full,
  // UNAVAILABLE while draining; what the scheduler finds comes as an event. Cancel and CancelStream
  // are never refused.
  absl::Status Start(SequenceRequest request);
  void Cancel(const SequenceKey& key);
  void CancelStream(uint64_t stream);

  EngineLoad load() const;

  // Waits until the warm-up is done, or the timeout passed: false.
  bool WaitUntilWarm(Duration timeout);
  // Refuses new sequences from now on; those that run go on.
  void Drain();
  // Waits until no sequence is left, or the timeout passed: false.
  bool WaitUntilEmpty(Duration timeout);
  // Fails what still runs with UNAVAILABLE and joins the thread. Idempotent.
  void Stop();

 private:
  struct CancelCommand {
    SequenceKey key;
  };
  struct CancelStreamCommand {
    uint64_t stream = 0;
  };
  using Command = std::variant<SequenceRequest, CancelCommand, CancelStreamCommand>;

  void Run();
  bool WarmUp();
  void Apply(Command command);
  void Report();
  void ReportLoad(TimePoint now);

  const Options options_;
  Stepper* const stepper_;
  const KvCache* const cache_;
  const Clock* const clock_;

  BoundedQueue<Command> commands_;
  std::atomic<int32_t> queued_starts_{0};
  std::atomic<bool> draining_{false};
  std::atomic<bool> stopping_{false};

  mutable Mutex mutex_;
  CondVar changed_;  // became warm or empty
  EngineLoad load_ GUARDED_BY(mutex_);
  TimePoint last_turn_ GUARDED_BY(mutex_);
  bool empty_ GUARDED_BY(mutex_) = true;

  // Step thread alone.
  double tokens_per_second_ = 0;
  int64_t tokens_counted_ = 0;
  TimePoint rate_at_;
  TimePoint missing_at_;
  TimePoint reported_at_;
  TimePoint turn_told_at_;

  std::thread thread_;
};

}  // namespace conclave::engine

// One turn of the engine: schedule, forward, sample, reply.
//
// The whole mutable state of serving is here: scheduler, KV accounting, sequences. Owned by the
// step loop and used on the step thread alone; it has no thread and no lock of its own, so tests
// turn it by hand.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "services/engine/engine_metrics.h"
#include "services/engine/forward.h"
#include "services/engine/kv_cache.h"
#include "services/engine/scheduler.h"
#include "services/engine/sequence_event.h"
#include "services/engine/step_time.h"
#include "services/engine/token_sampler.h"
#include "shared/base/clock.h"

namespace conclave::engine {

// The stream of the engine's own sequences (warm-up): its events go nowhere.
inline constexpr uint64_t kOwnStream = 0;

class Stepper {
 public:
  // All borrowed, and all outlive the stepper.
  struct Parts {
    Forward* forward = nullptr;
    ExpertDispatch* dispatch = nullptr;
    KvCache* cache = nullptr;
    kernels::Context* context = nullptr;
    EventSink* sink = nullptr;
    EngineMetrics* metrics = nullptr;
    const Clock* clock = nullptr;
  };
  struct Options {
    SchedulerOptions scheduler;
    StepCosts costs;  // prior of the step-time model
    int32_t vocab_size = 0;
  };
  Stepper(const Options& options, const Parts& parts);

  // Queues a validated request. What is wrong with it arrives as its failed event; a continued
  // generation that is complete already, as its finished event.
  void Start(SequenceRequest request);
  // Ends a sequence with a finished event (kCancelled), its blocks free on return. Unknown keys are
  // ignored: it may have ended meanwhile.
  void Cancel(const SequenceKey& key);
  // The same for all sequences of a stream that is gone, without events.
  void CancelStream(uint64_t stream);
  // Ends everything with failed events.
  void FailAll(const absl::Status& status);

  // One step, and the delivery of all events since the last one. False when nothing could run now.
  bool Step();
  // When Step should be called again if no command comes; TimePoint::max() when only a command
  // gives it work.
  TimePoint NextWake() const { return scheduler_.NextWake(); }

  // Runs a short generation of its own, so that the first request finds warm memory and a fitted
  // step-time model. UNAVAILABLE names an expert without a live worker. Precondition: no sequences.
  absl::Status WarmUp();

  // Experts without a live worker now, as (layer, expert).
  std::vector<std::pair<int32_t, int32_t>> MissingExperts() const {
    return parts_.dispatch->Missing();
  }

  const Scheduler& scheduler() const { return scheduler_; }
  int64_t num_generated_tokens() const { return num_generated_tokens_; }

 private:
  void NoticeExperts();
  void RunForward(const StepPlan& plan);
  void TakeResults(const StepPlan& plan, Duration elapsed);
  void TakeToken(Sequence* sequence, const kernels::SampleResult& result);
  void Finish(const SequenceKey& key, EndReason reason, std::optional<int32_t> stop_id);
  void Fail(const SequenceKey& key, const absl::Status& status);
  void ReportFailure(const Sequence& sequence, const absl::Status& status);
  void Emit(const SequenceKey& key, SequenceEvent event);
  void DeliverEvents();
  void SetGauges();

  const Parts parts_;
  const int32_t vocab_size_;
  StepTimes step_times_;
  Scheduler scheduler_;
  TokenSampler sampler_;

  std::vector<ForwardSequence> inputs_;  // of the step, one a planned sequence
  ForwardOutput output_;
  std::vector<SampleRow> sample_rows_;
  std::map<uint64_t, std::vector<SequenceEvent>> events_;  // by stream, since the last delivery
  std::vector<std::pair<int32_t, int32_t>> missing_;       // experts, as of the last step
  int64_t num_generated_tokens_ = 0;
  int64_t preemptions_counted_ = 0;
};

}  // namespace conclave::engine

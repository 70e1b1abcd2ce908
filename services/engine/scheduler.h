// Which sequences run in the next step, and who holds the KV blocks: continuous batching of decode
// rows and prefill chunks.
//
// Pure but for the KvCache that it accounts; owned by the step thread. It never runs the model: the
// step loop asks for a Plan, computes it, and tells what came out.
//
// Order of service: QoS class; inside a class the earliest deadline, where a sequence without one
// counts as due kPatience after its arrival, so that nobody waits for ever behind newcomers; then
// arrival. In a step, class by class: first the decode rows, then prefill in chunks cut to the
// step's budget of predicted milliseconds, which is larger while no sequence waits for the step's
// end: none generates, and no prompt is done in it.
//
// A step with realtime rows is an urgent one: what else runs in it makes it at most a twentieth
// longer than it would be alone, so that a realtime sequence keeps its pace beside any load. How
// long it would be is known from 16 of 128 urgent steps that are alone, one after the other: from
// the last eight, because after a step with many rows workers and gateways are busy with them for a
// while, perhaps on the same cores. Every 512th urgent step may be four times as long, so that the
// others go on however long that lasts.
//
// Blocks are given for all known ids at admission, and one by one afterwards. Full ones that the
// cache has already, held by others or kept from those that have ended, are shared: their ids are
// computed. When none is free, the last running sequence in the order of service loses its blocks
// and waits again: its ids are computed anew later, to the same bits and the same tokens, as far as
// they are not kept.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/engine/kv_cache.h"
#include "services/engine/sequence.h"
#include "services/engine/step_time.h"
#include "shared/base/clock.h"

namespace conclave::engine {

struct SchedulerOptions {
  // Predicted length of a step into which prefill is cut. A step with realtime rows is cut by what
  // these take alone instead: others stretch it by a twentieth, one in 512 to four times that.
  // Its prefill may take as long as reading all weights in any case.
  double step_budget_ms = 50;
  double prefill_budget_ms = 0;    // the same, if longer, for prefill that no sequence waits for
  int32_t max_batch = 256;         // sequences running at once
  int32_t max_waiting = 1024;      // sequences queued beside those
  int64_t max_step_tokens = 1024;  // rows of one step: bounds the memory of activations
  int64_t context_tokens = 0;      // longest prompt + output
  Duration missing_expert_wait = std::chrono::milliseconds(2000);
  std::string fingerprint{};  // of the model, for the addresses of blocks
};

// One sequence's part of a step.
struct PlannedSequence {
  Sequence* sequence = nullptr;
  int64_t num_tokens = 0;  // ids [num_computed, num_computed + num_tokens)
  bool samples = false;    // the last of them is the newest id: a token comes out
  bool first = false;      // its first step ever
};

struct StepPlan {
  std::vector<PlannedSequence> sequences;
  StepShape shape;
  bool undisturbed = false;  // every row is a realtime one, and was in the steps before
};

// A sequence that left the scheduler, and why.
struct EndedSequence {
  std::unique_ptr<Sequence> sequence;
  absl::Status status;
};

class Scheduler {
 public:
  // The cache, the models and the clock outlive the scheduler.
  Scheduler(SchedulerOptions options, KvCache* cache, const StepTimes* step_times,
            const Clock* clock);
  ~Scheduler();  // frees all blocks

  // Queues a validated request. ALREADY_EXISTS: its key is in use; INVALID_ARGUMENT: longer than
  // the context; RESOURCE_EXHAUSTED: it can never fit the cache, or the queue is full (a later try
  // may do better).
  absl::Status Add(SequenceRequest request);

  // Takes a sequence out and frees its blocks: cancelled, finished or failed. Null when there is
  // none.
  std::unique_ptr<Sequence> Remove(const SequenceKey& key);
  std::vector<SequenceKey> Keys() const;
  std::vector<SequenceKey> KeysOfStream(uint64_t stream) const;
  Sequence* Find(const SequenceKey& key) const;

  // Takes out what ran out of time: DEADLINE_EXCEEDED, or UNAVAILABLE naming the layer and expert
  // that was missing too long.
  std::vector<EndedSequence> TakeExpired();

  // The next step; empty when nothing can run now. Gives and takes blocks. The plan is valid until
  // any other call but Computed, Append, Park and Remove of its own sequences.
  StepPlan Plan();

  // What came out of the plan. Computed: `num_tokens` more ids are in the cache. Append: the next
  // id, which is to be computed. Park: the step is void for this sequence; it is tried again soon.
  void Computed(Sequence* sequence, int64_t num_tokens);
  void Append(Sequence* sequence, int32_t id);
  void Park(Sequence* sequence, const absl::Status& missing);

  // Tries all parked sequences in the next step: the experts within reach have changed.
  void RetryParked();

  // When Plan or TakeExpired may have something to do that they have not now; TimePoint::max() when
  // only a command can change it.
  TimePoint NextWake() const;

  int64_t context_tokens() const { return options_.context_tokens; }
  int32_t num_running() const { return static_cast<int32_t>(running_.size()); }
  int32_t num_waiting() const { return static_cast<int32_t>(waiting_.size()); }
  int32_t num_parked() const;
  int64_t queued_tokens() const;  // ids that are not computed yet, decode rows apart
  int64_t num_preemptions() const { return num_preemptions_; }
  bool empty() const { return sequences_.empty(); }

 private:
  struct InOrder {
    bool operator()(const Sequence* a, const Sequence* b) const;
  };
  using Ordered = std::set<Sequence*, InOrder>;

  bool Runnable(const Sequence& sequence) const;
  void CountBlocks(Sequence* sequence);
  void FreeBlocks(Sequence* sequence);
  void Preempt(Sequence* sequence);
  void GiveDecodeBlocks();
  const BlockAddress& AddressOf(Sequence* sequence, int64_t block) const;
  std::vector<int32_t> FindPrefix(Sequence* sequence) const;
  bool Admit(Sequence* sequence);
  void PlanDecodes(QosClass qos, bool all, StepPlan* plan);
  std::vector<Sequence*> PrefillCandidates(QosClass qos, bool may_admit) const;
  bool PlanPrefills(QosClass qos, bool may_admit, StepPlan* plan);
  bool AnyGenerates() const;
  double PrefillWorthMs(const StepShape& shape) const;
  int64_t ChunkOf(const Sequence& sequence, const StepPlan& plan) const;
  // The realtime rows are planned: bounds what the other classes add.
  void GuardUrgent(const StepPlan& plan);
  double PredictMs(const StepShape& shape) const { return step_times_->any.PredictMs(shape); }

  const SchedulerOptions options_;
  KvCache* const cache_;
  const StepTimes* const step_times_;
  const Clock* const clock_;

  std::map<SequenceKey, std::unique_ptr<Sequence>> sequences_;
  Ordered running_;
  Ordered waiting_;
  TimePoint now_;         // of the call in progress
  TimePoint planned_at_;  // of the last Plan: when its step began
  uint64_t next_arrival_ = 0;
  uint64_t step_ = 0;
  double limit_ms_ = 0;          // of the step that is being planned
  double prefill_limit_ms_ = 0;  // the same for what prefill may make it
  bool may_be_long_ = false;     // nobody waits for its end yet
  bool urgent_ = false;          // it has realtime rows: nothing of others goes beyond the limit
  uint64_t urgent_steps_ = 0;
  uint64_t alone_steps_ = 0;  // the last so many steps had realtime rows alone
  int64_t num_preemptions_ = 0;
};

}  // namespace conclave::engine

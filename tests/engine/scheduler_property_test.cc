// Random schedules: whatever arrives, is cancelled, parked or runs late, the blocks are accounted
// exactly and everyone is served.
#include <chrono>
#include <map>
#include <set>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention.h"
#include "rapidcheck/gtest.h"
#include "services/engine/scheduler.h"
#include "tests/engine/scheduler_fixture.h"

namespace conclave::engine {
namespace {

using std::chrono::milliseconds;

constexpr int32_t kBlocks = 12;
constexpr int32_t kMaxBatch = 5;

// A token that depends on the ids before it alone, as the model's does.
int32_t TokenAfter(const std::vector<int32_t>& ids) {
  uint32_t hash = 17;
  for (int32_t id : ids) hash = hash * 31 + static_cast<uint32_t>(id);
  return static_cast<int32_t>(hash % 1000);
}

std::vector<int32_t> Undisturbed(std::vector<int32_t> ids, size_t count) {
  for (size_t i = 0; i < count; ++i) ids.push_back(TokenAfter(ids));
  return ids;
}

class RandomRun {
 public:
  RandomRun()
      : f_(kBlocks,
           {.step_budget_ms = *rc::gen::element(0.01, 3.0, 20.0, 1e6),
            .max_batch = kMaxBatch,
            .max_waiting = 1000,
            .max_step_tokens = *rc::gen::element<int64_t>(16, 64, 1024)},
           /*reuse=*/*rc::gen::arbitrary<bool>()) {}

  void Arrive() {
    SequenceRequest request;
    request.key = {static_cast<uint64_t>(*rc::gen::inRange(1, 4)), next_id_++};
    // All of one length or more begin equally, unless a few of them are another tenant's.
    request.prompt_ids = SomeIds(*rc::gen::inRange(1, 150));
    request.tenant_salt = *rc::gen::element<std::string>("", "", "", "other");
    request.max_tokens = *rc::gen::inRange(1, 120);
    request.qos = *rc::gen::element(QosClass::kRealtime, QosClass::kInteractive, QosClass::kBatch,
                                    QosClass::kSheddable);
    request.sampling.pace = *rc::gen::element(0.0, 0.0, 100.0);
    request.arrived = f_.clock.Now();
    const SequenceKey key = request.key;
    RC_ASSERT(f_.scheduler.Add(std::move(request)).ok());
    live_.insert(key);
  }

  void Cancel() {
    if (live_.empty()) return;
    const auto at =
        std::next(live_.begin(), *rc::gen::inRange<int>(0, static_cast<int>(live_.size())));
    RC_ASSERT(f_.scheduler.Remove(*at) != nullptr);
    live_.erase(at);
  }

  // Returns false when nothing could run.
  bool Step(bool park_some) {
    const StepPlan plan = f_.scheduler.Plan();
    std::set<const Sequence*> planned_once;
    int64_t rows = 0;
    for (const PlannedSequence& planned : plan.sequences) {
      Sequence& sequence = *planned.sequence;
      RC_ASSERT(planned_once.insert(&sequence).second);
      RC_ASSERT(planned.num_tokens >= 1);
      RC_ASSERT(planned.num_tokens <= sequence.num_to_compute());
      RC_ASSERT(planned.samples == (planned.num_tokens == sequence.num_to_compute()));
      RC_ASSERT(BlocksFor(sequence.num_computed + planned.num_tokens) <=
                static_cast<int32_t>(sequence.blocks.size()));
      rows += planned.num_tokens;
    }
    RC_ASSERT(rows == plan.shape.decode_rows + plan.shape.prefill_tokens);
    RC_ASSERT(f_.scheduler.num_running() <= kMaxBatch);
    CheckBlocks();
    for (const PlannedSequence& planned : plan.sequences) {
      Sequence& sequence = *planned.sequence;
      if (park_some && (sequence.arrival + static_cast<uint64_t>(rows)) % 3 == 0) {
        f_.scheduler.Park(&sequence, absl::UnavailableError("layer 0 expert 0 has no live worker"));
        continue;
      }
      f_.scheduler.Computed(&sequence, planned.num_tokens);
      if (!planned.samples) continue;
      f_.scheduler.Append(&sequence, TokenAfter(sequence.ids));
      if (static_cast<int64_t>(sequence.ids.size()) < sequence.length_limit) continue;
      RC_ASSERT(sequence.ids == Undisturbed(sequence.request.prompt_ids,
                                            static_cast<size_t>(sequence.request.max_tokens)));
      const SequenceKey key = sequence.request.key;
      f_.scheduler.Remove(key);
      live_.erase(key);
    }
    CheckBlocks();
    return !plan.sequences.empty();
  }

  void Pass(Duration time) {
    f_.clock.Advance(time);
    for (const EndedSequence& ended : f_.scheduler.TakeExpired())
      live_.erase(ended.sequence->request.key);
  }

  // Without further arrivals everything ends, in a bounded number of steps.
  void Finish() {
    for (int i = 0; i < 20000 && !live_.empty(); ++i) {
      if (Step(false)) {
        Pass(milliseconds(1));
        continue;
      }
      const TimePoint wake = f_.scheduler.NextWake();
      RC_ASSERT(wake != TimePoint::max());
      Pass(std::max<Duration>(wake - f_.clock.Now(), milliseconds(1)));
    }
    RC_ASSERT(live_.empty());
    RC_ASSERT(f_.scheduler.empty());
    RC_ASSERT(f_.cache.used_blocks() == 0);
  }

 private:
  // Every held block has as many references as holders, and every holder is alive.
  void CheckBlocks() {
    std::map<int32_t, int32_t> held;
    for (const SequenceKey& key : live_) {
      const Sequence* sequence = f_.scheduler.Find(key);
      RC_ASSERT(sequence != nullptr);
      RC_ASSERT(sequence->running != sequence->blocks.empty());
      for (int32_t block : sequence->blocks) {
        ++held[block];
      }
      CheckContents(*sequence);
    }
    for (const auto& [block, holders] : held) {
      RC_ASSERT(f_.cache.references(block) == holders);
    }
    RC_ASSERT(f_.cache.used_blocks() == static_cast<int32_t>(held.size()));
  }

  // Its full blocks, shared or its own, are those of its ids.
  void CheckContents(const Sequence& sequence) {
    BlockAddress address = RootAddress("test", sequence.request.tenant_salt);
    for (int64_t i = 0; i < sequence.num_sealed; ++i) {
      address = NextAddress(
          address,
          std::span(sequence.ids).subspan(i * kernels::kBlockTokens, kernels::kBlockTokens));
      const BlockAddress* found = f_.cache.AddressOf(sequence.blocks[static_cast<size_t>(i)]);
      RC_ASSERT(found != nullptr);
      RC_ASSERT(*found == address);
    }
  }

  SchedulerFixture f_;
  std::set<SequenceKey> live_;
  uint64_t next_id_ = 1;
};

RC_GTEST_PROP(SchedulerProperty, AccountsBlocksExactlyAndServesEveryone, ()) {
  RandomRun run;
  const int num_actions = *rc::gen::inRange(1, 80);
  for (int i = 0; i < num_actions; ++i) {
    switch (*rc::gen::weightedElement<int>({{3, 0}, {1, 1}, {6, 2}, {2, 3}, {2, 4}})) {
      case 0:
        run.Arrive();
        break;
      case 1:
        run.Cancel();
        break;
      case 2:
        run.Step(false);
        break;
      case 3:
        run.Step(true);
        break;
      case 4:
        run.Pass(milliseconds(*rc::gen::inRange(1, 60)));
        break;
    }
  }
  run.Finish();
}

}  // namespace
}  // namespace conclave::engine

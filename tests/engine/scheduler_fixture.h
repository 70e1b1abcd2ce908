// A scheduler over a small cache of tiny blocks and a simulated clock, for the tests of the
// scheduler.
#pragma once

#include <cstdint>
#include <numeric>
#include <utility>
#include <vector>

#include "services/engine/kv_cache.h"
#include "services/engine/scheduler.h"
#include "shared/base/clock.h"

namespace conclave::engine {

inline constexpr int64_t kTestBlockBytes = 64;

inline std::vector<int32_t> SomeIds(int64_t count) {
  std::vector<int32_t> ids(count);
  std::iota(ids.begin(), ids.end(), 1);
  return ids;
}

// A millisecond a decode row, a tenth a prefill token, half a step: round numbers for exact
// expectations.
inline constexpr StepCosts kTestCosts{
    .fixed_ms = 0.5, .decode_row_ms = 1, .prefill_token_ms = 0.1, .context_token_ms = 0};

class SchedulerFixture {
 public:
  explicit SchedulerFixture(int32_t num_blocks, SchedulerOptions options = {})
      : SchedulerFixture(num_blocks, std::move(options), /*reuse=*/false) {}

  // `reuse`: sequences with a common prefix share its blocks.
  SchedulerFixture(int32_t num_blocks, SchedulerOptions options, bool reuse)
      : cache(*MapKvMemory(num_blocks, kTestBlockBytes), reuse),
        step_times(kTestCosts),
        scheduler(Filled(std::move(options), cache), &cache, &step_times, &clock) {}

  SequenceRequest Request(uint64_t id, int64_t prompt_tokens, int64_t max_tokens) {
    SequenceRequest request;
    request.key = {1, id};
    request.prompt_ids = SomeIds(prompt_tokens);
    request.max_tokens = max_tokens;
    request.arrived = clock.Now();
    return request;
  }

  // One step as the loop does it, in which every token is `id`. Sequences that reach their limit
  // are removed; returns the plan as (sequence id, tokens).
  std::vector<std::pair<uint64_t, int64_t>> Step(int32_t id = 7, StepPlan* done = nullptr) {
    std::vector<std::pair<uint64_t, int64_t>> rows;
    const StepPlan plan = scheduler.Plan();
    if (done != nullptr) *done = plan;
    for (const PlannedSequence& planned : plan.sequences) {
      const SequenceKey key = planned.sequence->request.key;
      rows.emplace_back(key.id, planned.num_tokens);
      scheduler.Computed(planned.sequence, planned.num_tokens);
      if (!planned.samples) continue;
      scheduler.Append(planned.sequence, id);
      if (static_cast<int64_t>(planned.sequence->ids.size()) >= planned.sequence->length_limit)
        scheduler.Remove(key);
    }
    return rows;
  }

  SimulatedClock clock;
  KvCache cache;
  StepTimes step_times;
  Scheduler scheduler;

 private:
  static SchedulerOptions Filled(SchedulerOptions options, const KvCache& cache) {
    if (options.context_tokens == 0) options.context_tokens = cache.capacity_tokens();
    options.fingerprint = "test";
    return options;
  }
};

}  // namespace conclave::engine

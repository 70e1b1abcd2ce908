#include "services/engine/scheduler.h"

#include <chrono>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/scheduler_fixture.h"

namespace conclave::engine {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;
using testing::Pair;
using testing::UnorderedElementsAre;

TEST(Scheduler, IsEmptyAtFirst) {
  SchedulerFixture f(4);
  EXPECT_TRUE(f.scheduler.empty());
  EXPECT_THAT(f.Step(), IsEmpty());
  EXPECT_EQ(f.scheduler.NextWake(), TimePoint::max());
  EXPECT_EQ(f.scheduler.Remove({1, 1}), nullptr);
}

TEST(Scheduler, PrefillsThenDecodesToTheLimit) {
  SchedulerFixture f(8);
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 40, 3)).ok());
  EXPECT_EQ(f.scheduler.queued_tokens(), 40);
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 40)));
  EXPECT_EQ(f.cache.used_blocks(), 2);
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 1)));
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 1)));
  EXPECT_TRUE(f.scheduler.empty());
  EXPECT_EQ(f.cache.used_blocks(), 0);
}

TEST(Scheduler, CutsPrefillToTheBudget) {
  SchedulerFixture f(64, {.step_budget_ms = 10});
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 200, 2)).ok());
  // (10 - 0.5) / 0.1 tokens fit.
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 95)));
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 95)));
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 10)));
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 1)));
}

TEST(Scheduler, MixesDecodeRowsAndPrefillInOneBudget) {
  SchedulerFixture f(64, {.step_budget_ms = 10});
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 5, 50)).ok());
  f.Step();
  ASSERT_TRUE(f.scheduler.Add(f.Request(2, 100, 50)).ok());
  ASSERT_TRUE(f.scheduler.Add(f.Request(3, 100, 50)).ok());
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 1), Pair(2, 85)));
  const StepPlan plan = f.scheduler.Plan();
  EXPECT_LE(f.step_times.any.PredictMs(plan.shape), 10.0 + 1e-9);
  ASSERT_EQ(plan.sequences.size(), 3u);
  EXPECT_EQ(plan.sequences[1].num_tokens, 15);
  EXPECT_TRUE(plan.sequences[1].samples);
  EXPECT_EQ(plan.sequences[2].num_tokens, 70);
  EXPECT_FALSE(plan.sequences[2].samples);
}

TEST(Scheduler, TakesLongerStepsOfPrefillWhileNobodyGenerates) {
  SchedulerFixture f(64, {.step_budget_ms = 10, .prefill_budget_ms = 20});
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 300, 3)).ok());
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 195)));
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 105)));
  ASSERT_TRUE(f.scheduler.Add(f.Request(2, 300, 2)).ok());
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 1), Pair(2, 85)));
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 1), Pair(2, 85)));
  EXPECT_THAT(f.Step(), ElementsAre(Pair(2, 130)));
}

TEST(Scheduler, ALongStepHasOnePromptThatIsDoneInIt) {
  SchedulerFixture f(64, {.step_budget_ms = 10, .prefill_budget_ms = 50});
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 60, 2)).ok());
  ASSERT_TRUE(f.scheduler.Add(f.Request(2, 300, 2)).ok());
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 60), Pair(2, 35)));
}

TEST(Scheduler, APacedSequenceWaitsForNoLongStep) {
  SchedulerFixture f(64, {.step_budget_ms = 10, .prefill_budget_ms = 50});
  SequenceRequest paced = f.Request(1, 20, 50);
  paced.sampling.pace = 10;
  ASSERT_TRUE(f.scheduler.Add(std::move(paced)).ok());
  f.Step();
  ASSERT_TRUE(f.scheduler.Add(f.Request(2, 300, 2)).ok());
  EXPECT_THAT(f.Step(), ElementsAre(Pair(2, 95)));
}

// A chunk beside decode rows takes at least as long as the weights that it makes the step read.
TEST(Scheduler, PrefillPaysForTheExpertsThatItReads) {
  SchedulerFixture f(64, {.step_budget_ms = 0.01});
  StepCosts costs = kTestCosts;
  costs.experts_ms = 8;
  costs.expert_share = 0.25;
  f.step_times.any = StepTimeModel(costs);
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 5, 50)).ok());
  f.Step();
  ASSERT_TRUE(f.scheduler.Add(f.Request(2, 300, 2)).ok());
  // (0.5 + 8) / 0.1 tokens, but for a little: their last one need not choose all experts.
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 1), Pair(2, 85)));
  f.scheduler.Remove({1, 2});
  // The same for several prompts together.
  for (uint64_t id = 3; id <= 6; ++id) ASSERT_TRUE(f.scheduler.Add(f.Request(id, 25, 9)).ok());
  EXPECT_THAT(f.Step(),
              ElementsAre(Pair(1, 1), Pair(3, 25), Pair(4, 25), Pair(5, 25), Pair(6, 10)));
}

TEST(Scheduler, PrefillGoesOnUnderABudgetBelowOneToken) {
  SchedulerFixture f(64, {.step_budget_ms = 0.01});
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 40, 1)).ok());
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 16)));
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 16)));
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 8)));
}

TEST(Scheduler, BoundsTheRowsOfAStep) {
  SchedulerFixture f(64, {.step_budget_ms = 1e6, .max_step_tokens = 30});
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 20, 9)).ok());
  ASSERT_TRUE(f.scheduler.Add(f.Request(2, 20, 9)).ok());
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 20), Pair(2, 10)));
}

TEST(Scheduler, AdmitsByBlocksAndKeepsTheOrder) {
  SchedulerFixture f(4);
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 64, 2)).ok());  // 2 of 4 blocks
  ASSERT_TRUE(f.scheduler.Add(f.Request(2, 90, 2)).ok());  // 3: must wait
  ASSERT_TRUE(f.scheduler.Add(f.Request(3, 10, 2)).ok());  // would fit, but came later
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 64)));
  EXPECT_EQ(f.scheduler.num_waiting(), 2);
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 1)));
  EXPECT_THAT(f.Step(), ElementsAre(Pair(2, 90)));
}

TEST(Scheduler, KeepsABlockForEachRunningSequence) {
  SchedulerFixture f(4);
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 32, 64)).ok());
  ASSERT_TRUE(f.scheduler.Add(f.Request(2, 64, 2)).ok());
  ASSERT_TRUE(f.scheduler.Add(f.Request(3, 1, 2)).ok());
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 32), Pair(2, 64)));
  EXPECT_EQ(f.cache.free_blocks(), 1);
}

TEST(Scheduler, BoundsTheBatch) {
  SchedulerFixture f(64, {.max_batch = 2});
  for (uint64_t id = 1; id < 5; ++id) ASSERT_TRUE(f.scheduler.Add(f.Request(id, 1, 2)).ok());
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 1), Pair(2, 1)));
  EXPECT_THAT(f.Step(), UnorderedElementsAre(Pair(1, 1), Pair(2, 1)));
  EXPECT_THAT(f.Step(), ElementsAre(Pair(3, 1), Pair(4, 1)));
}

TEST(Scheduler, PreemptsTheLastInOrderWhenBlocksRunOut) {
  SchedulerFixture f(4);
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 32, 96)).ok());
  ASSERT_TRUE(f.scheduler.Add(f.Request(2, 32, 96)).ok());
  std::map<uint64_t, int> finished_after;
  int steps = 0;
  for (; !f.scheduler.empty() && steps < 500; ++steps) {
    f.Step();
    ASSERT_LE(f.cache.used_blocks(), 4);
    for (uint64_t id : {1, 2}) {
      if (f.scheduler.Find({1, id}) == nullptr) finished_after.emplace(id, steps);
    }
  }
  EXPECT_EQ(f.scheduler.num_preemptions(), 1);
  EXPECT_EQ(finished_after[1], 95);  // never disturbed
  EXPECT_LT(finished_after[2], 500);
  EXPECT_EQ(f.cache.used_blocks(), 0);
}

TEST(Scheduler, APreemptedSequenceComputesAllItsIdsAgain) {
  SchedulerFixture f(4);
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 32, 96)).ok());
  f.Step();
  ASSERT_TRUE(f.scheduler.Add(f.Request(2, 20, 60)).ok());
  while (f.scheduler.num_preemptions() == 0) ASSERT_FALSE(f.Step().empty());
  const Sequence* preempted = f.scheduler.Find({1, 2});
  ASSERT_NE(preempted, nullptr);
  const int64_t known = static_cast<int64_t>(preempted->ids.size());
  EXPECT_GT(known, 20);
  EXPECT_EQ(preempted->num_computed, 0);
  EXPECT_TRUE(preempted->blocks.empty());
  std::vector<std::pair<uint64_t, int64_t>> rows;
  do {
    rows = f.Step();
    ASSERT_FALSE(rows.empty());
  } while (rows.back().first != 2);
  EXPECT_EQ(rows.back().second, known);
  EXPECT_EQ(preempted->preemptions, 1);
}

TEST(Scheduler, RefusesWhatCanNeverFit) {
  SchedulerFixture f(4, {.context_tokens = 1000});
  const absl::Status cache = f.scheduler.Add(f.Request(1, 129, 5));
  EXPECT_EQ(cache.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(cache.message()), AllOf(HasSubstr("129"), HasSubstr("128")));
  const absl::Status context = f.scheduler.Add(f.Request(1, 1001, 5));
  EXPECT_EQ(context.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(context.message()), AllOf(HasSubstr("1001"), HasSubstr("1000")));
  EXPECT_TRUE(f.scheduler.empty());
}

TEST(Scheduler, ASequenceThatFillsTheWholeCacheRunsAlone) {
  SchedulerFixture f(4);
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 100, 1'000'000)).ok());
  ASSERT_TRUE(f.scheduler.Add(f.Request(2, 100, 1'000'000)).ok());
  int64_t generated = 0;
  for (int i = 0; i < 200 && !f.scheduler.empty(); ++i)
    generated += static_cast<int64_t>(f.Step().size());
  EXPECT_TRUE(f.scheduler.empty());
  EXPECT_EQ(generated, 2 * 28);
  EXPECT_EQ(f.scheduler.num_preemptions(), 0);
}

TEST(Scheduler, ClipsTheLengthToTheContext) {
  SchedulerFixture f(64, {.context_tokens = 50});
  SequenceRequest request = f.Request(1, 40, std::numeric_limits<int64_t>::max());
  ASSERT_TRUE(f.scheduler.Add(std::move(request)).ok());
  EXPECT_EQ(f.scheduler.Find({1, 1})->length_limit, 50);
}

TEST(Scheduler, RefusesADuplicateKeyAndKeepsTheFirst) {
  SchedulerFixture f(16);
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 4, 9)).ok());
  EXPECT_EQ(f.scheduler.Add(f.Request(1, 4, 9)).code(), absl::StatusCode::kAlreadyExists);
  SequenceRequest other_stream = f.Request(1, 4, 9);
  other_stream.key.stream = 2;
  EXPECT_TRUE(f.scheduler.Add(std::move(other_stream)).ok());
  EXPECT_EQ(f.Step().size(), 2u);
  EXPECT_THAT(f.scheduler.KeysOfStream(2), ElementsAre(SequenceKey{2, 1}));
  EXPECT_THAT(f.scheduler.KeysOfStream(3), IsEmpty());
}

TEST(Scheduler, BoundsTheQueue) {
  SchedulerFixture f(16, {.max_batch = 1, .max_waiting = 2});
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 4, 9)).ok());  // will run
  ASSERT_TRUE(f.scheduler.Add(f.Request(2, 4, 9)).ok());
  ASSERT_TRUE(f.scheduler.Add(f.Request(3, 4, 9)).ok());
  const absl::Status full = f.scheduler.Add(f.Request(4, 4, 9));
  EXPECT_EQ(full.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_THAT(std::string(full.message()), HasSubstr("2"));
  f.Step();
  EXPECT_FALSE(f.scheduler.Add(f.Request(4, 4, 9)).ok());
  f.scheduler.Remove({1, 3});
  EXPECT_TRUE(f.scheduler.Add(f.Request(4, 4, 9)).ok());
}

TEST(Scheduler, RemovingFreesTheBlocksAtOnce) {
  SchedulerFixture f(16);
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 100, 9)).ok());
  f.Step();
  EXPECT_EQ(f.cache.used_blocks(), 4);
  EXPECT_NE(f.scheduler.Remove({1, 1}), nullptr);
  EXPECT_EQ(f.cache.used_blocks(), 0);
  EXPECT_THAT(f.Step(), IsEmpty());
}

TEST(Scheduler, DeadlinesEndWaitingAndRunningSequences) {
  SchedulerFixture f(16, {.max_batch = 1});
  for (uint64_t id : {1, 2}) {
    SequenceRequest request = f.Request(id, 4, 99);
    request.remaining = milliseconds(100 * id);
    ASSERT_TRUE(f.scheduler.Add(std::move(request)).ok());
  }
  f.Step();
  EXPECT_EQ(f.scheduler.NextWake(), f.clock.Now() + milliseconds(100));
  f.clock.Advance(milliseconds(99));
  EXPECT_TRUE(f.scheduler.TakeExpired().empty());
  f.clock.Advance(milliseconds(1));
  const std::vector<EndedSequence> ended = f.scheduler.TakeExpired();
  ASSERT_EQ(ended.size(), 1u);
  EXPECT_EQ(ended[0].sequence->request.key.id, 1u);
  EXPECT_EQ(ended[0].status.code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_THAT(std::string(ended[0].status.message()), HasSubstr("1 generated"));
  EXPECT_EQ(f.cache.used_blocks(), 0);
  f.clock.Advance(milliseconds(100));
  EXPECT_EQ(f.scheduler.TakeExpired().size(), 1u);
  EXPECT_TRUE(f.scheduler.empty());
}

TEST(Scheduler, PacesASequence) {
  SchedulerFixture f(16);
  SequenceRequest request = f.Request(1, 4, 1000);
  request.sampling.pace = 20;
  ASSERT_TRUE(f.scheduler.Add(std::move(request)).ok());
  int tokens = 0;
  const TimePoint start = f.clock.Now();
  while (f.clock.Now() < start + seconds(1)) {
    tokens += static_cast<int>(f.Step().size());
    EXPECT_GT(f.scheduler.NextWake(), f.clock.Now());
    f.clock.Advance(milliseconds(1));
  }
  EXPECT_EQ(tokens, 20);
  f.clock.Advance(seconds(3));  // a stall is not made up for
  tokens = 0;
  for (int ms = 0; ms < 500; ++ms) {
    tokens += static_cast<int>(f.Step().size());
    f.clock.Advance(milliseconds(1));
  }
  EXPECT_GE(tokens, 10);
  EXPECT_LE(tokens, 12);
}

TEST(Scheduler, ParksASequenceWhileOthersGoOnAndFailsItInTheEnd) {
  SchedulerFixture f(16);
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 4, 1000)).ok());
  ASSERT_TRUE(f.scheduler.Add(f.Request(2, 4, 10000)).ok());
  const TimePoint start = f.clock.Now();
  int tries = 0;
  std::vector<EndedSequence> ended;
  while (ended.empty() && f.clock.Now() < start + seconds(5)) {
    const StepPlan plan = f.scheduler.Plan();
    bool other_ran = false;
    for (const PlannedSequence& planned : plan.sequences) {
      if (planned.sequence->request.key.id == 1) {
        ++tries;
        f.scheduler.Park(planned.sequence,
                         absl::UnavailableError("layer 3 expert 7 has no live worker"));
      } else {
        other_ran = true;
        f.scheduler.Computed(planned.sequence, planned.num_tokens);
        f.scheduler.Append(planned.sequence, 5);
      }
    }
    EXPECT_TRUE(other_ran);
    EXPECT_EQ(f.scheduler.num_parked(), 1);
    f.clock.Advance(milliseconds(10));
    ended = f.scheduler.TakeExpired();
  }
  EXPECT_EQ(f.clock.Now() - start, milliseconds(2000));
  EXPECT_EQ(tries, 40);
  ASSERT_EQ(ended.size(), 1u);
  EXPECT_EQ(ended[0].status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(ended[0].status.message()), HasSubstr("layer 3 expert 7"));
  EXPECT_EQ(ended[0].sequence->num_computed, 0);
}

TEST(Scheduler, AParkedSequenceThatSucceedsHasItsFullWaitAgain) {
  SchedulerFixture f(16);
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 4, 1000)).ok());
  const absl::Status missing = absl::UnavailableError("layer 1 expert 0 has no live worker");
  f.scheduler.Park(f.scheduler.Plan().sequences.at(0).sequence, missing);
  f.clock.Advance(milliseconds(1900));
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 4)));
  EXPECT_EQ(f.scheduler.num_parked(), 0);
  f.scheduler.Park(f.scheduler.Plan().sequences.at(0).sequence, missing);
  f.clock.Advance(milliseconds(1999));
  EXPECT_TRUE(f.scheduler.TakeExpired().empty());
  f.clock.Advance(milliseconds(1));
  EXPECT_EQ(f.scheduler.TakeExpired().size(), 1u);
}

TEST(Scheduler, TheTimeThatAStepWaitedForAWorkerCounts) {
  SchedulerFixture f(16);
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 4, 1000)).ok());
  const absl::Status late = absl::UnavailableError("expert-0 did not answer within 2000 ms");
  Sequence* const sequence = f.scheduler.Plan().sequences.at(0).sequence;
  f.clock.Advance(milliseconds(1500));  // the step's call
  f.scheduler.Park(sequence, late);
  f.clock.Advance(milliseconds(499));
  EXPECT_TRUE(f.scheduler.TakeExpired().empty());
  f.clock.Advance(milliseconds(1));
  EXPECT_EQ(f.scheduler.TakeExpired().size(), 1u);
}

TEST(Scheduler, RetriesParkedSequencesAtOnceWhenExpertsChange) {
  SchedulerFixture f(16);
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 4, 1000)).ok());
  f.scheduler.Park(f.scheduler.Plan().sequences.at(0).sequence, absl::UnavailableError("gone"));
  EXPECT_THAT(f.Step(), IsEmpty());
  EXPECT_EQ(f.scheduler.NextWake(), f.clock.Now() + milliseconds(50));
  f.scheduler.RetryParked();
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 4)));
}

TEST(Scheduler, AddressesFullBlocksByTheirContent) {
  SchedulerFixture f(16);
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 70, 9)).ok());
  SequenceRequest salted = f.Request(2, 70, 9);
  salted.tenant_salt = "other";
  ASSERT_TRUE(f.scheduler.Add(std::move(salted)).ok());
  ASSERT_TRUE(f.scheduler.Add(f.Request(3, 64, 9)).ok());
  f.Step();
  const Sequence* one = f.scheduler.Find({1, 1});
  const Sequence* two = f.scheduler.Find({1, 2});
  const Sequence* three = f.scheduler.Find({1, 3});
  ASSERT_EQ(one->num_sealed, 2);
  EXPECT_EQ(f.cache.AddressOf(one->blocks[2]), nullptr);
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(*f.cache.AddressOf(one->blocks[i]), *f.cache.AddressOf(three->blocks[i]));
    EXPECT_NE(*f.cache.AddressOf(one->blocks[i]), *f.cache.AddressOf(two->blocks[i]));
  }
  EXPECT_NE(*f.cache.AddressOf(one->blocks[0]), *f.cache.AddressOf(one->blocks[1]));
}

TEST(Scheduler, MetersBlockSeconds) {
  SchedulerFixture f(16);
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 32, 99)).ok());
  f.Step();
  f.clock.Advance(seconds(2));  // one block, two seconds
  f.Step();                     // takes the second one
  f.clock.Advance(seconds(1));
  EXPECT_DOUBLE_EQ(f.scheduler.Remove({1, 1})->kv_block_seconds, 2 + 2);
}

}  // namespace
}  // namespace conclave::engine

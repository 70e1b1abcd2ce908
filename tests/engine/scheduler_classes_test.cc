// Whose turn it is: classes, deadlines, arrival, and what lower classes may take of a step.
#include <algorithm>
#include <chrono>
#include <map>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/engine/scheduler.h"
#include "tests/engine/scheduler_fixture.h"

namespace conclave::engine {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using testing::ElementsAre;
using testing::Pair;

TEST(Scheduler, OrdersByClassThenDeadlineThenArrival) {
  SchedulerFixture f(64, {.step_budget_ms = 0.01});
  auto add = [&](uint64_t id, QosClass qos, std::optional<Duration> remaining) {
    SequenceRequest request = f.Request(id, 16, 1);
    request.qos = qos;
    request.remaining = remaining;
    ASSERT_TRUE(f.scheduler.Add(std::move(request)).ok());
  };
  add(1, QosClass::kSheddable, seconds(1));
  add(2, QosClass::kBatch, {});
  add(3, QosClass::kInteractive, {});
  add(4, QosClass::kInteractive, {});
  add(5, QosClass::kInteractive, seconds(9));
  add(6, QosClass::kInteractive, seconds(3));
  add(7, QosClass::kRealtime, {});
  std::vector<uint64_t> order;
  for (int i = 0; i < 7; ++i) order.push_back(f.Step().at(0).first);
  EXPECT_THAT(order, ElementsAre(7, 6, 5, 3, 4, 2, 1));
}

TEST(Scheduler, ASequenceWithoutDeadlineIsNotPassedForEver) {
  SchedulerFixture f(64, {.step_budget_ms = 0.01});
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 16, 1)).ok());
  uint64_t next = 2;
  int steps = 0;
  for (; f.scheduler.Find({1, 1}) != nullptr && steps < 1000; ++steps) {
    SequenceRequest urgent =
        f.Request(next++, 16, 1);  // always one more with a deadline of five seconds
    urgent.remaining = seconds(5);
    ASSERT_TRUE(f.scheduler.Add(std::move(urgent)).ok());
    f.Step();
    f.clock.Advance(milliseconds(100));
  }
  EXPECT_GT(steps, 100);
  EXPECT_LT(steps, 310);  // kPatience
}

TEST(Scheduler, LowerClassesDecodeBesideABusyHigherOne) {
  SchedulerFixture f(256, {.step_budget_ms = 4});
  SequenceRequest batch = f.Request(1, 1, 1000);
  batch.qos = QosClass::kBatch;
  ASSERT_TRUE(f.scheduler.Add(std::move(batch)).ok());
  f.Step();
  for (uint64_t id = 2; id < 8; ++id) ASSERT_TRUE(f.scheduler.Add(f.Request(id, 1, 1000)).ok());
  std::map<uint64_t, int> rows;
  for (int step = 0; step < 100; ++step) {
    for (const auto& [id, tokens] : f.Step()) ++rows[id];
  }
  for (uint64_t id = 2; id < 8; ++id) EXPECT_GE(rows[id], 99) << id;
  EXPECT_GE(rows[1], 19);
  EXPECT_LE(rows[1], 26);
}

TEST(Scheduler, ABudgetThatARowOfLowerClassesExceedsIsShared) {
  SchedulerFixture f(256, {.step_budget_ms = 3.6});
  ASSERT_TRUE(f.scheduler.Add(f.Request(1, 1, 1000)).ok());
  for (uint64_t id = 2; id < 8; ++id) {
    SequenceRequest batch = f.Request(id, 1, 1000);
    batch.qos = QosClass::kBatch;
    ASSERT_TRUE(f.scheduler.Add(std::move(batch)).ok());
  }
  std::map<uint64_t, int> rows;
  for (int step = 0; step < 103; ++step) {
    for (const auto& [id, tokens] : f.Step()) ++rows[id];
  }
  EXPECT_GE(rows[1], 99);
  for (uint64_t id = 2; id < 8; ++id) {
    EXPECT_GE(rows[id], 28) << id;  // two of six rows a step
    EXPECT_LE(rows[id], 40) << id;
  }
}

// An urgent sequence of steps beside others: how many predicted milliseconds its steps take,
// sorted, and the rows that each of the others gets.
struct UrgentRun {
  std::vector<double> step_ms;
  std::map<uint64_t, int64_t> rows;
  std::vector<StepPlan> plans;  // their sequences may be gone
};
UrgentRun RunUrgent(SchedulerFixture& f, int num_steps) {
  SequenceRequest urgent = f.Request(1, 1, 100'000);
  urgent.qos = QosClass::kRealtime;
  EXPECT_TRUE(f.scheduler.Add(std::move(urgent)).ok());
  f.Step();
  UrgentRun run;
  for (int step = 0; step < num_steps; ++step) {
    for (const auto& [id, tokens] : f.Step(7, &run.plans.emplace_back())) run.rows[id] += tokens;
    run.step_ms.push_back(f.step_times.any.PredictMs(run.plans.back().shape));
  }
  std::sort(run.step_ms.begin(), run.step_ms.end());
  EXPECT_EQ(run.rows[1], num_steps);
  return run;
}

TEST(Scheduler, OthersStretchUrgentStepsByATwentiethAndRarelyMore) {
  SchedulerFixture f(4096, {.step_budget_ms = 50, .context_tokens = 2000});
  for (uint64_t id = 2; id < 40; ++id) {
    SequenceRequest batch = f.Request(id, id < 20 ? 1 : 500, 1000);
    batch.qos = id % 2 == 0 ? QosClass::kBatch : QosClass::kSheddable;
    ASSERT_TRUE(f.scheduler.Add(std::move(batch)).ok());
  }
  const UrgentRun run = RunUrgent(f, 1000);
  EXPECT_LE(run.step_ms[989], 1.5 * 1.05 + 1e-9);  // alone: 1.5
  EXPECT_LE(run.step_ms.back(), 1.5 * 4 + 1e-9);
}

// So that what others add to an urgent step is measured against what it takes alone.
TEST(Scheduler, SomeUrgentStepsAreUndisturbed) {
  SchedulerFixture f(4096, {.step_budget_ms = 50, .context_tokens = 2000});
  // A row of another costs a hundredth of the urgent one: some go with every step that may have
  // any.
  f.step_times = StepTimes(
      {.fixed_ms = 1, .decode_row_ms = 0.01, .prefill_token_ms = 0.01, .context_token_ms = 0});
  SequenceRequest batch = f.Request(2, 1, 1900);
  batch.qos = QosClass::kBatch;
  ASSERT_TRUE(f.scheduler.Add(std::move(batch)).ok());
  const UrgentRun run = RunUrgent(f, 1280);
  int alone = 0;
  int undisturbed = 0;
  for (size_t i = 0; i < run.step_ms.size(); ++i) {
    if (run.plans[i].shape.decode_rows == 1) ++alone;
    if (!run.plans[i].undisturbed) continue;
    ++undisturbed;
    for (size_t before = i - std::min<size_t>(i, 8); before <= i; ++before) {
      EXPECT_EQ(run.plans[before].shape.decode_rows, 1) << i;
    }
  }
  EXPECT_NEAR(alone, 160, 16);
  EXPECT_NEAR(undisturbed, 80, 8);
}

// However slow the model is, and though a row of another costs more than the stretch allows.
class UrgentSequence : public testing::TestWithParam<double> {};

TEST_P(UrgentSequence, LeavesRowsToOthers) {
  SchedulerFixture f(4096, {.step_budget_ms = GetParam(), .context_tokens = 20'000});
  for (const auto& [id, qos] : {std::pair<uint64_t, QosClass>{2, QosClass::kInteractive},
                                {3, QosClass::kBatch},
                                {4, QosClass::kSheddable}}) {
    SequenceRequest other = f.Request(id, 1, 1000);
    other.qos = qos;
    ASSERT_TRUE(f.scheduler.Add(std::move(other)).ok());
  }
  UrgentRun run = RunUrgent(f, 5120);
  for (uint64_t id = 2; id < 5; ++id) EXPECT_GE(run.rows[id], 9) << id;
}

INSTANTIATE_TEST_SUITE_P(StepBudgets, UrgentSequence, testing::Values(50, 1));

TEST(Scheduler, AHigherClassTakesTheBlocksOfALowerOne) {
  SchedulerFixture f(4);
  SequenceRequest batch = f.Request(1, 96, 9);
  batch.qos = QosClass::kBatch;
  ASSERT_TRUE(f.scheduler.Add(std::move(batch)).ok());
  f.Step();
  ASSERT_TRUE(f.scheduler.Add(f.Request(2, 60, 2)).ok());
  EXPECT_THAT(f.Step(), ElementsAre(Pair(2, 60)));
  EXPECT_EQ(f.scheduler.num_preemptions(), 1);
  // Not so inside a class.
  ASSERT_TRUE(f.scheduler.Add(f.Request(3, 90, 2)).ok());
  EXPECT_THAT(f.Step(), ElementsAre(Pair(2, 1)));
  EXPECT_EQ(f.scheduler.num_preemptions(), 1);
}

TEST(Scheduler, AHigherClassTakesAPlaceInAFullBatch) {
  SchedulerFixture f(16, {.max_batch = 1});
  SequenceRequest batch = f.Request(1, 4, 9);
  batch.qos = QosClass::kSheddable;
  ASSERT_TRUE(f.scheduler.Add(std::move(batch)).ok());
  f.Step();
  SequenceRequest urgent = f.Request(2, 4, 1);
  urgent.qos = QosClass::kRealtime;
  ASSERT_TRUE(f.scheduler.Add(std::move(urgent)).ok());
  EXPECT_THAT(f.Step(), ElementsAre(Pair(2, 4)));
  EXPECT_THAT(f.Step(), ElementsAre(Pair(1, 5)));
}

TEST(Scheduler, ServesTheSequencesOfAClassEvenly) {
  SchedulerFixture f(128, {.max_batch = 8});
  std::map<uint64_t, int> rows;
  for (uint64_t id = 1; id <= 24; ++id) ASSERT_TRUE(f.scheduler.Add(f.Request(id, 8, 60)).ok());
  uint64_t last_finished = 0;
  for (int step = 0; step < 400 && !f.scheduler.empty(); ++step) {
    for (const auto& [id, tokens] : f.Step()) {
      ++rows[id];
      if (rows[id] == 60) {
        EXPECT_GE(id + 8, last_finished) << "a later arrival finished long before";
        last_finished = std::max(last_finished, id);
      }
    }
  }
  EXPECT_TRUE(f.scheduler.empty());
}

}  // namespace
}  // namespace conclave::engine

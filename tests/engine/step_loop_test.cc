// The loop as a thread: commands wake it, it tells its age, and it ends in order.
#include "services/engine/step_loop.h"

#include <chrono>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shared/base/mutex.h"
#include "tests/engine/golden_engine.h"

namespace conclave::engine {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

// Passes on to the recording sink under a lock, and lets the test wait.
class WaitingSink final : public EventSink {
 public:
  void Deliver(uint64_t stream, std::vector<SequenceEvent> events) override {
    MutexLock lock(mutex_);
    recorded_.Deliver(stream, std::move(events));
    changed_.NotifyAll();
  }

  // Waits until the sequence has ended or has `num_ids` tokens.
  Outcome WaitFor(const SequenceKey& key, size_t num_ids = SIZE_MAX) {
    const auto deadline = std::chrono::steady_clock::now() + seconds(20);
    MutexLock lock(mutex_);
    while (!recorded_.outcomes[key].ended() && recorded_.outcomes[key].ids.size() < num_ids) {
      if (!changed_.WaitUntil(mutex_, deadline)) {
        ADD_FAILURE() << "no end of sequence " << key.id;
        break;
      }
    }
    return recorded_.outcomes[key];
  }

 private:
  Mutex mutex_;
  CondVar changed_;
  RecordingSink recorded_;
};

class StepLoopTest : public testing::Test {
 protected:
  StepLoopTest() : stepper_(MakeStepper()) {}

  std::unique_ptr<Stepper> MakeStepper() {
    Stepper::Options options;
    options.scheduler.context_tokens = 512;
    options.scheduler.max_batch = 4;
    options.vocab_size = model_.checkpoint->config().vocab_size;
    return std::make_unique<Stepper>(options, Stepper::Parts{.forward = &engine_.forward,
                                                             .dispatch = &engine_.dispatch,
                                                             .cache = &engine_.cache,
                                                             .context = &engine_.context,
                                                             .sink = &sink_,
                                                             .metrics = &engine_.metrics,
                                                             .clock = &clock_});
  }

  SequenceRequest Request(uint64_t id, int64_t max_tokens) {
    SequenceRequest request = engine_.Request(id, model_.Prompt(1), max_tokens);
    request.arrived = clock_.Now();
    return request;
  }

  const GoldenModel& model_ = LoadGolden("deepseek_v3", kernels::NumericsClass::kF32);
  GoldenEngine engine_{model_, {}};
  SteadyClock clock_;
  WaitingSink sink_;
  std::unique_ptr<Stepper> stepper_;
};

TEST_F(StepLoopTest, ServesWhatIsSubmitted) {
  StepLoop loop({}, stepper_.get(), &engine_.cache, &clock_);
  for (uint64_t id = 1; id <= 6; ++id) ASSERT_TRUE(loop.Start(Request(id, 32)).ok());
  for (uint64_t id = 1; id <= 6; ++id) EXPECT_EQ(sink_.WaitFor({1, id}).ids, model_.GreedyIds(1));
  EXPECT_TRUE(loop.WaitUntilEmpty(seconds(10)));
  const EngineLoad load = loop.load();
  EXPECT_TRUE(load.warm);
  EXPECT_EQ(load.running, 0);
  EXPECT_EQ(load.kv_used_ratio, 0);
}

TEST_F(StepLoopTest, CancelAndALostStreamFreeEverything) {
  StepLoop loop({}, stepper_.get(), &engine_.cache, &clock_);
  SequenceRequest other = Request(2, 400);
  other.key.stream = 2;
  other.sampling.pace = 100;
  SequenceRequest paced = Request(1, 400);
  paced.sampling.pace = 100;
  ASSERT_TRUE(loop.Start(std::move(paced)).ok());
  ASSERT_TRUE(loop.Start(std::move(other)).ok());
  sink_.WaitFor({1, 1}, 2);
  loop.Cancel({1, 1});
  loop.Cancel({1, 1});
  const Outcome cancelled = sink_.WaitFor({1, 1});
  ASSERT_TRUE(cancelled.finished.has_value());
  EXPECT_EQ(cancelled.finished->reason, EndReason::kCancelled);
  loop.CancelStream(2);
  EXPECT_TRUE(loop.WaitUntilEmpty(seconds(10)));
  loop.Stop();
  EXPECT_EQ(engine_.cache.used_blocks(), 0);
}

TEST_F(StepLoopTest, AnIdleLoopStaysYoungWithoutWork) {
  StepLoop loop({}, stepper_.get(), &engine_.cache, &clock_);
  ASSERT_TRUE(loop.Start(Request(1, 1)).ok());
  sink_.WaitFor({1, 1});
  ASSERT_TRUE(loop.WaitUntilEmpty(seconds(10)));
  // One turn is at most the idle period away; the bound leaves room for a busy machine.
  EXPECT_LT(loop.load().last_turn_age, seconds(5));
}

TEST_F(StepLoopTest, AnIdleLoopTellsThatItTurns) {
  Mutex mutex;
  CondVar changed;
  int turns = 0;
  StepLoop loop({.on_turn =
                     [&] {
                       MutexLock lock(mutex);
                       ++turns;
                       changed.NotifyAll();
                     }},
                stepper_.get(), &engine_.cache, &clock_);
  const auto deadline = std::chrono::steady_clock::now() + seconds(20);
  MutexLock lock(mutex);
  while (turns < 3) ASSERT_TRUE(changed.WaitUntil(mutex, deadline));
}

TEST_F(StepLoopTest, RefusesBeyondItsQueueAndWhileDraining) {
  StepLoop full({.max_queued_starts = 0}, stepper_.get(), &engine_.cache, &clock_);
  EXPECT_EQ(full.Start(Request(1, 1)).code(), absl::StatusCode::kResourceExhausted);
  full.Drain();
  EXPECT_EQ(full.Start(Request(1, 1)).code(), absl::StatusCode::kUnavailable);
}

TEST_F(StepLoopTest, DrainLetsRunningSequencesEnd) {
  StepLoop loop({}, stepper_.get(), &engine_.cache, &clock_);
  ASSERT_TRUE(loop.Start(Request(1, 32)).ok());
  loop.Drain();
  EXPECT_FALSE(loop.Start(Request(2, 1)).ok());
  EXPECT_TRUE(loop.WaitUntilEmpty(seconds(10)));
  EXPECT_EQ(sink_.WaitFor({1, 1}).ids, model_.GreedyIds(1));
}

TEST_F(StepLoopTest, StopFailsWhatStillRuns) {
  StepLoop loop({}, stepper_.get(), &engine_.cache, &clock_);
  SequenceRequest request = Request(1, 400);
  request.sampling.pace = 10;
  ASSERT_TRUE(loop.Start(std::move(request)).ok());
  sink_.WaitFor({1, 1}, 1);
  EXPECT_FALSE(loop.WaitUntilEmpty(milliseconds(1)));
  loop.Stop();
  loop.Stop();
  const Outcome outcome = sink_.WaitFor({1, 1});
  ASSERT_TRUE(outcome.failed.has_value());
  EXPECT_EQ(outcome.failed->code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(engine_.cache.used_blocks(), 0);
  EXPECT_EQ(loop.Start(Request(2, 1)).code(), absl::StatusCode::kUnavailable);
}

TEST_F(StepLoopTest, BecomesWarmWhenTheMissingExpertsCome) {
  const weights::ExpertId first = engine_.experts->Held().front();
  std::vector<weights::ExpertId> gone;
  for (const weights::ExpertId& id : engine_.experts->Held()) {
    if (id.layer == first.layer) gone.push_back(id);
  }
  for (const weights::ExpertId& id : gone) engine_.experts->Release(id);
  StepLoop loop({}, stepper_.get(), &engine_.cache, &clock_);
  // A sequence may start meanwhile: it parks, and goes on as soon as the experts are there.
  ASSERT_TRUE(loop.Start(Request(1, 8)).ok());
  EXPECT_FALSE(loop.load().warm);
  for (const weights::ExpertId& id : gone) ASSERT_TRUE(engine_.experts->Load(id).ok());
  const Outcome outcome = sink_.WaitFor({1, 1});
  EXPECT_EQ(outcome.ids.size(), 8u);
  const auto deadline = std::chrono::steady_clock::now() + seconds(20);
  while (!loop.load().warm && std::chrono::steady_clock::now() < deadline)
    loop.WaitUntilEmpty(milliseconds(10));
  EXPECT_TRUE(loop.load().warm);
}

}  // namespace
}  // namespace conclave::engine

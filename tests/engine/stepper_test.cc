// The engine's turn over real models: a sequence's tokens are a function of its request, whatever
// else happens.
#include "services/engine/stepper.h"

#include <chrono>
#include <cmath>
#include <cstring>
#include <string>
#include <tuple>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/engine/golden_engine.h"
#include "tests/engine/request_mixture.h"

namespace conclave::engine {
namespace {

using kernels::NumericsClass;
using std::chrono::milliseconds;
using testing::HasSubstr;

constexpr const char* kFamilies[] = {
    "deepseek_v2_lite", "deepseek_v2_full", "deepseek_v3", "mixtral",
    "qwen2_moe",        "qwen3_moe",        "olmoe"};

class StepperReferences : public testing::TestWithParam<const char*> {};

TEST_P(StepperReferences, GreedyTokensAreTheReferences) {
  const GoldenModel& model = LoadGolden(GetParam(), NumericsClass::kF32);
  GoldenEngine engine(model, {});
  for (size_t i = 0; i < model.num_prompts(); ++i) {
    const Outcome outcome = engine.Run(engine.Request(i, model.Prompt(i), 32));
    EXPECT_EQ(outcome.ids, model.GreedyIds(i));
    ASSERT_TRUE(outcome.finished.has_value());
    EXPECT_EQ(outcome.finished->reason, EndReason::kLength);
    EXPECT_GT(outcome.finished->kv_byte_seconds, -1);
  }
}

INSTANTIATE_TEST_SUITE_P(All, StepperReferences, testing::ValuesIn(kFamilies),
                         [](const auto& info) { return std::string(info.param); });

// In each of the formats that models are served in.
class StepperOfFamily : public testing::TestWithParam<std::tuple<const char*, NumericsClass>> {
 protected:
  const GoldenModel& model() {
    return LoadGolden(std::get<0>(GetParam()), std::get<1>(GetParam()));
  }

  // A hundred ids or more.
  std::vector<int32_t> LongPrompt() {
    std::vector<int32_t> prompt;
    while (prompt.size() < 100) {
      for (int32_t id : model().Prompt(2)) prompt.push_back(id);
    }
    return prompt;
  }

  // Each of the mixture by itself, in an engine with room.
  std::vector<Outcome> Alone(int count, int64_t max_tokens) {
    GoldenEngine engine(model(), {.prefix_cache = false});
    std::vector<Outcome> outcomes;
    for (SequenceRequest& request : Mixture(engine, model(), count, max_tokens))
      outcomes.push_back(engine.Run(std::move(request)));
    return outcomes;
  }
};

TEST_P(StepperOfFamily, InCompanyEqualsAlone) {
  const std::vector<Outcome> alone = Alone(12, 24);
  GoldenEngine engine(model(), {.num_blocks = 256, .threads = 2});
  for (SequenceRequest& request : Mixture(engine, model(), 12, 24))
    engine.Start(std::move(request));
  engine.RunAll();
  for (size_t i = 0; i < alone.size(); ++i) ExpectSame(engine.Of(i + 1), alone[i]);
}

TEST_P(StepperOfFamily, SmallChunksEqualTheWholePrompt) {
  const std::vector<Outcome> alone = Alone(6, 12);
  GoldenEngine engine(model(), {.num_blocks = 256, .step_budget_ms = 1e-6, .max_step_tokens = 7});
  for (SequenceRequest& request : Mixture(engine, model(), 6, 12)) engine.Start(std::move(request));
  engine.RunAll();
  for (size_t i = 0; i < alone.size(); ++i) ExpectSame(engine.Of(i + 1), alone[i]);
}

TEST_P(StepperOfFamily, PreemptedEqualsUndisturbed) {
  const std::vector<Outcome> alone = Alone(5, 80);
  GoldenEngine engine(model(), {.num_blocks = 9, .context_tokens = 9 * 32});
  for (SequenceRequest& request : Mixture(engine, model(), 5, 80)) engine.Start(std::move(request));
  engine.RunAll();
  EXPECT_GT(engine.stepper.scheduler().num_preemptions(), 0);
  for (size_t i = 0; i < alone.size(); ++i) ExpectSame(engine.Of(i + 1), alone[i]);
}

TEST_P(StepperOfFamily, ContinuedElsewhereEqualsUndisturbed) {
  const std::vector<Outcome> whole = Alone(6, 20);
  for (const size_t cut : {1, 7, 19, 20}) {
    GoldenEngine engine(model(), {});
    std::vector<SequenceRequest> requests = Mixture(engine, model(), 6, 20);
    for (size_t i = 0; i < requests.size(); ++i) {
      requests[i].generated_ids.assign(whole[i].ids.begin(), whole[i].ids.begin() + cut);
      engine.Start(std::move(requests[i]));
    }
    engine.RunAll();
    for (size_t i = 0; i < whole.size(); ++i) {
      Outcome rest = whole[i];
      rest.ids.erase(rest.ids.begin(), rest.ids.begin() + cut);
      if (!rest.logprobs.empty())
        rest.logprobs.erase(rest.logprobs.begin(), rest.logprobs.begin() + cut);
      ExpectSame(engine.Of(i + 1), rest);
      EXPECT_EQ(engine.Of(i + 1).finished->reason, EndReason::kLength);
    }
  }
}

TEST_P(StepperOfFamily, EqualAddressesMeanEqualBytes) {
  GoldenEngine engine(model(),
                      {.step_budget_ms = 1e-6, .max_step_tokens = 40, .prefix_cache = false});
  const std::vector<int32_t> prompt = LongPrompt();
  engine.Start(engine.Request(1, prompt, 50));
  std::vector<int32_t> other = prompt;
  other.back() ^= 1;
  engine.Start(engine.Request(2, other, 50));
  for (int i = 0; i < 30; ++i) engine.stepper.Step();
  const Sequence* one = engine.stepper.scheduler().Find({1, 1});
  const Sequence* two = engine.stepper.scheduler().Find({1, 2});
  ASSERT_GE(one->num_sealed, 3);
  ASSERT_GE(two->num_sealed, 3);
  const KvStorage storage = engine.cache.storage();
  for (int i = 0; i < 3; ++i) {
    EXPECT_EQ(*engine.cache.AddressOf(one->blocks[i]), *engine.cache.AddressOf(two->blocks[i]));
    EXPECT_EQ(std::memcmp(storage.base + one->blocks[i] * storage.block_stride_bytes,
                          storage.base + two->blocks[i] * storage.block_stride_bytes,
                          engine.cache.block_bytes()),
              0);
  }
  engine.stepper.CancelStream(1);
}

// Turns of a chat, each with all that was said before: from a cache that has it, and from none.
TEST_P(StepperOfFamily, AWarmPrefixGivesTheBitsOfAColdOne) {
  GoldenEngine warm(model(), {});
  std::vector<int32_t> prompt = LongPrompt();
  int64_t computed = 0;  // positions that the turns before have left
  for (uint64_t turn = 1; turn <= 4; ++turn) {
    SequenceRequest request = warm.Request(turn, prompt, 30);
    request.sampling.top_logprobs = 3;
    GoldenEngine cold(model(), {});
    const Outcome expected = cold.Run(request);
    const Outcome outcome = warm.Run(request);
    ExpectSame(outcome, expected);
    EXPECT_EQ(expected.finished->cached_tokens, 0);
    EXPECT_EQ(outcome.finished->cached_tokens, computed / 32 * 32) << turn;
    prompt.insert(prompt.end(), outcome.ids.begin(), outcome.ids.end());
    computed = std::ssize(prompt) - 1;
    prompt.insert(prompt.end(), {5, static_cast<int32_t>(turn), 9});
  }
  // The same again, in company of one that shares only its beginning, in chunks.
  GoldenEngine small(model(), {.step_budget_ms = 1e-6, .max_step_tokens = 7});
  prompt.resize(150);
  const Outcome expected = GoldenEngine(model(), {}).Run(small.Request(1, prompt, 20));
  for (uint64_t id = 1; id <= 3; ++id) {
    std::vector<int32_t> other = prompt;
    other[75] ^= 1;
    small.Start(small.Request(10 + id, other, 20));
    ExpectSame(small.Run(small.Request(id, prompt, 20)), expected);
  }
}

INSTANTIATE_TEST_SUITE_P(All, StepperOfFamily,
                         testing::Combine(testing::ValuesIn(kFamilies),
                                          testing::Values(NumericsClass::kBf16,
                                                          NumericsClass::kInt8,
                                                          NumericsClass::kInt4)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) + "_" +
                                  std::string(kernels::NumericsClassName(std::get<1>(info.param)));
                         });

class StepperTest : public testing::Test {
 protected:
  const GoldenModel& model_ = LoadGolden("deepseek_v3", NumericsClass::kF32);
};

TEST_F(StepperTest, AStopIdEndsTheSequenceAndIsNotAmongItsTokens) {
  const std::vector<int32_t> greedy = model_.GreedyIds(1);
  GoldenEngine engine(model_, {});
  SequenceRequest request = engine.Request(1, model_.Prompt(1), 32);
  request.stop_ids = {greedy[5]};
  size_t first = 0;
  while (greedy[first] != greedy[5]) ++first;
  const Outcome outcome = engine.Run(std::move(request));
  EXPECT_EQ(outcome.ids, std::vector<int32_t>(greedy.begin(), greedy.begin() + first));
  ASSERT_TRUE(outcome.finished.has_value());
  EXPECT_EQ(outcome.finished->reason, EndReason::kStop);
  EXPECT_EQ(outcome.finished->stop_id, greedy[5]);
}

TEST_F(StepperTest, NoStopIdBeforeTheMinimum) {
  const std::vector<int32_t> greedy = model_.GreedyIds(1);
  GoldenEngine engine(model_, {});
  SequenceRequest request = engine.Request(1, model_.Prompt(1), 32);
  request.stop_ids = {greedy[0], greedy[3]};
  request.min_tokens = 3;
  const Outcome outcome = engine.Run(std::move(request));
  EXPECT_GE(outcome.ids.size(), 3u);
  for (int32_t id : outcome.ids) EXPECT_TRUE(id != greedy[0] && id != greedy[3]);

  SequenceRequest other = engine.Request(2, model_.Prompt(1), 32);
  other.stop_ids = {greedy[0]};
  const Outcome without = engine.Run(std::move(other));
  EXPECT_TRUE(without.ids.empty());
  EXPECT_EQ(without.finished->reason, EndReason::kStop);
}

TEST_F(StepperTest, EndsAtMaxTokensAndAtTheContext) {
  GoldenEngine engine(model_, {.context_tokens = 40});
  const std::vector<int32_t> prompt = model_.Prompt(2);  // 33 tokens
  const Outcome one = engine.Run(engine.Request(1, prompt, 1));
  EXPECT_EQ(one.ids.size(), 1u);
  EXPECT_EQ(one.finished->reason, EndReason::kLength);
  const Outcome clipped = engine.Run(engine.Request(2, prompt, 1'000'000));
  EXPECT_EQ(clipped.ids.size(), 7u);
  EXPECT_EQ(clipped.finished->reason, EndReason::kLength);
}

TEST_F(StepperTest, ACompleteContinuationFinishesAtOnce) {
  GoldenEngine engine(model_, {});
  SequenceRequest request = engine.Request(1, model_.Prompt(1), 3);
  request.generated_ids = {4, 5, 6};
  const Outcome outcome = engine.Run(std::move(request));
  EXPECT_TRUE(outcome.ids.empty());
  EXPECT_EQ(outcome.finished->reason, EndReason::kLength);
}

TEST_F(StepperTest, LogprobsAreOfTheRawDistribution) {
  GoldenEngine engine(model_, {});
  SequenceRequest request = engine.Request(1, model_.Prompt(2), 4);
  request.sampling.top_logprobs = 5;
  const Outcome greedy = engine.Run(std::move(request));
  ASSERT_EQ(greedy.logprobs.size(), 4u);
  for (size_t i = 0; i < 4; ++i) {
    const ChosenLogprobs& at = greedy.logprobs[i];
    ASSERT_EQ(at.top.size(), 5u);
    EXPECT_EQ(at.top[0].id, greedy.ids[i]);
    EXPECT_EQ(at.top[0].logprob, at.chosen);
    EXPECT_LT(at.chosen, 0);
    for (size_t j = 1; j < 5; ++j) EXPECT_GE(at.top[j - 1].logprob, at.top[j].logprob);
  }
  // Bias and temperature change the choice, not what is said of the distribution.
  SequenceRequest biased = engine.Request(2, model_.Prompt(2), 1);
  biased.sampling.top_logprobs = 0;
  biased.sampling.logit_bias = {{greedy.logprobs[0].top[3].id, 100.0f}};
  const Outcome forced = engine.Run(std::move(biased));
  EXPECT_EQ(forced.ids[0], greedy.logprobs[0].top[3].id);
  EXPECT_EQ(forced.logprobs[0].chosen, greedy.logprobs[0].top[3].logprob);
  EXPECT_TRUE(forced.logprobs[0].top.empty());
  // None when not asked for.
  EXPECT_TRUE(engine.Run(engine.Request(3, model_.Prompt(2), 2)).logprobs.empty());
}

TEST_F(StepperTest, ChoicesAndSeedsDiffer) {
  GoldenEngine engine(model_, {});
  std::vector<std::vector<int32_t>> ids;
  for (uint64_t i = 0; i < 4; ++i) {
    SequenceRequest request = engine.Request(i, model_.Prompt(1), 16);
    request.sampling.temperature = 1.5f;
    request.seed = i / 2;
    request.choice_index = static_cast<uint32_t>(i % 2);
    ids.push_back(engine.Run(std::move(request)).ids);
  }
  for (size_t i = 0; i < 4; ++i) {
    for (size_t j = 0; j < i; ++j) EXPECT_NE(ids[i], ids[j]);
  }
}

TEST_F(StepperTest, CancelFreesTheBlocksBeforeTheNextStep) {
  GoldenEngine engine(model_, {});
  engine.Start(engine.Request(1, model_.Prompt(2), 100));
  engine.Start(engine.Request(2, model_.Prompt(2), 100));
  for (int i = 0; i < 3; ++i) engine.stepper.Step();
  const int32_t used = engine.cache.used_blocks();
  engine.stepper.Cancel({1, 1});
  EXPECT_EQ(engine.cache.used_blocks(), used / 2);
  engine.stepper.Cancel({1, 77});  // unknown: nothing happens
  engine.stepper.Step();
  const Outcome& cancelled = engine.Of(1);
  ASSERT_TRUE(cancelled.finished.has_value());
  EXPECT_EQ(cancelled.finished->reason, EndReason::kCancelled);
  EXPECT_EQ(cancelled.ids.size(), 3u);
  engine.stepper.CancelStream(1);
  EXPECT_EQ(engine.cache.used_blocks(), 0);
  engine.stepper.Step();
  EXPECT_FALSE(engine.Of(2).ended());  // the stream is gone: nobody to tell
}

TEST_F(StepperTest, OneDeliveryAStreamAndStep) {
  GoldenEngine engine(model_, {});
  for (uint64_t id = 1; id <= 3; ++id) {
    SequenceRequest request = engine.Request(id, model_.Prompt(1), 5);
    request.key.stream = 1 + id % 2;
    engine.Start(std::move(request));
  }
  engine.stepper.Step();
  EXPECT_EQ(engine.sink.deliveries, 2);
  engine.stepper.Step();
  EXPECT_EQ(engine.sink.deliveries, 4);
  engine.RunAll();
}

TEST_F(StepperTest, PaceSlowsOneSequenceAlone) {
  GoldenEngine engine(model_, {});
  SequenceRequest paced = engine.Request(1, model_.Prompt(1), 20);
  paced.sampling.pace = 50;
  engine.Start(std::move(paced));
  engine.Start(engine.Request(2, model_.Prompt(1), 100));
  for (int ms = 0; ms < 100; ++ms) {
    engine.stepper.Step();
    engine.clock.Advance(milliseconds(1));
  }
  EXPECT_EQ(engine.Of(1).ids.size(), 5u);
  EXPECT_EQ(engine.Of(2).ids.size(), 100u);
  engine.RunAll();
  std::vector<int32_t> greedy = model_.GreedyIds(1);
  greedy.resize(20);
  EXPECT_EQ(engine.Of(1).ids, greedy);
}

TEST_F(StepperTest, AMissingExpertParksOnlyWhoNeedsItAndRecoversTheSameTokens) {
  GoldenEngine engine(model_, {});
  const weights::ExpertId gone = engine.experts->Held().front();
  engine.experts->Release(gone);
  for (size_t i = 0; i < model_.num_prompts(); ++i)
    engine.Start(engine.Request(i + 1, model_.Prompt(i), 32));
  for (int i = 0; i < 40; ++i) {
    engine.stepper.Step();
    engine.clock.Advance(milliseconds(10));
  }
  EXPECT_GT(engine.stepper.scheduler().num_parked(), 0);
  ASSERT_TRUE(engine.experts->Load(gone).ok());
  engine.RunAll();
  for (size_t i = 0; i < model_.num_prompts(); ++i) {
    EXPECT_EQ(engine.Of(i + 1).ids, model_.GreedyIds(i));
  }
}

TEST_F(StepperTest, AnExpertThatStaysAwayFailsWhoNeedsItByName) {
  GoldenEngine engine(model_, {});
  const std::vector<weights::ExpertId> held = engine.experts->Held();
  for (const weights::ExpertId& id : held) {
    if (id.layer == held.front().layer) engine.experts->Release(id);
  }
  engine.Start(engine.Request(1, model_.Prompt(1), 8));
  const TimePoint start = engine.clock.Now();
  engine.RunAll();
  const Outcome& outcome = engine.Of(1);
  ASSERT_TRUE(outcome.failed.has_value());
  EXPECT_EQ(outcome.failed->code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(outcome.failed->message()),
              AllOf(HasSubstr("layer " + std::to_string(held.front().layer)), HasSubstr("expert")));
  EXPECT_GE(engine.clock.Now() - start, milliseconds(2000));
  EXPECT_LE(engine.clock.Now() - start, milliseconds(2100));
}

TEST_F(StepperTest, ADeadlineEndsARunningSequence) {
  GoldenEngine engine(model_, {});
  SequenceRequest request = engine.Request(1, model_.Prompt(1), 400);
  request.remaining = milliseconds(10);
  const Outcome outcome = engine.Run(std::move(request));
  ASSERT_TRUE(outcome.failed.has_value());
  EXPECT_EQ(outcome.failed->code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(outcome.ids.size(), 10u);
}

TEST_F(StepperTest, RefusalsArriveAsEventsAndDisturbNobody) {
  GoldenEngine engine(model_, {.max_batch = 1});
  engine.Start(engine.Request(1, model_.Prompt(1), 4));
  SequenceRequest long_one = engine.Request(2, std::vector<int32_t>(600, 1), 4);
  engine.stepper.Start(std::move(long_one));
  engine.RunAll();
  EXPECT_EQ(engine.Of(1).ids.size(), 4u);
  ASSERT_TRUE(engine.Of(2).failed.has_value());
  EXPECT_EQ(engine.Of(2).failed->code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(StepperTest, FailAllEndsEverything) {
  GoldenEngine engine(model_, {});
  engine.Start(engine.Request(1, model_.Prompt(1), 40));
  engine.stepper.Step();
  engine.Start(engine.Request(2, model_.Prompt(1), 40));
  engine.stepper.FailAll(absl::UnavailableError("stopping"));
  EXPECT_EQ(engine.cache.used_blocks(), 0);
  for (uint64_t id : {1, 2}) EXPECT_TRUE(engine.Of(id).failed.has_value());
}

TEST_F(StepperTest, WarmUpLeavesNothingBehind) {
  GoldenEngine engine(model_, {.context_tokens = 20});
  EXPECT_TRUE(engine.stepper.WarmUp().ok());
  EXPECT_EQ(engine.cache.used_blocks(), 0);
  EXPECT_EQ(engine.sink.deliveries, 0);
  EXPECT_TRUE(engine.stepper.scheduler().empty());
}

TEST_F(StepperTest, WarmUpNamesAMissingExpert) {
  GoldenEngine engine(model_, {});
  const weights::ExpertId first = engine.experts->Held().front();
  for (const weights::ExpertId& id : engine.experts->Held()) {
    if (id.layer == first.layer) engine.experts->Release(id);
  }
  const absl::Status status = engine.stepper.WarmUp();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("expert"));
  EXPECT_EQ(engine.cache.used_blocks(), 0);
}

TEST_F(StepperTest, CountsItsMetrics) {
  GoldenEngine engine(model_, {});
  engine.Run(engine.Request(1, model_.Prompt(2), 4));
  const std::string text = engine.registry.Expose();
  EXPECT_THAT(text, HasSubstr("conclave_step_tokens_total{kind=\"prefill\"} 33"));
  EXPECT_THAT(text, HasSubstr("conclave_step_tokens_total{kind=\"decode\"} 3"));
  EXPECT_THAT(text, HasSubstr("conclave_queue_wait_seconds_count 1"));
  EXPECT_THAT(text, HasSubstr("conclave_kv_blocks{state=\"empty\"} 63"));
  EXPECT_THAT(text, HasSubstr("conclave_kv_blocks{state=\"cached\"} 1"));
}

}  // namespace
}  // namespace conclave::engine

#include "services/engine/step_time.h"

#include <cmath>
#include <random>

#include "gtest/gtest.h"

namespace conclave::engine {
namespace {

constexpr StepCosts kTrue{.fixed_ms = 3,
                          .decode_row_ms = 0.4,
                          .prefill_token_ms = 0.05,
                          .context_token_ms = 2e-5,
                          .experts_ms = 12,
                          .expert_share = 0.1};

double TrueMs(const StepShape& shape) {
  return kTrue.fixed_ms + kTrue.decode_row_ms * shape.decode_rows +
         kTrue.prefill_token_ms * shape.prefill_tokens +
         kTrue.context_token_ms * static_cast<double>(shape.context_tokens) +
         kTrue.experts_ms *
             (1 - std::pow(1 - kTrue.expert_share, shape.decode_rows + shape.prefill_tokens));
}

StepShape AnyShape(std::mt19937& random) {
  StepShape shape;
  shape.decode_rows = static_cast<int32_t>(random() % 33);
  shape.prefill_tokens = random() % 2 == 0 ? 0 : static_cast<int32_t>(1 + random() % 512);
  shape.context_tokens =
      static_cast<int64_t>(random() % 1000) * (shape.decode_rows + shape.prefill_tokens);
  return shape;
}

// Both a prior that is far too low and one that is far too high.
class StepTimeFit : public testing::TestWithParam<double> {};

TEST_P(StepTimeFit, FindsTheCostsFromNoisySteps) {
  StepTimeModel model({.fixed_ms = kTrue.fixed_ms * GetParam(),
                       .decode_row_ms = kTrue.decode_row_ms * GetParam(),
                       .prefill_token_ms = kTrue.prefill_token_ms * GetParam(),
                       .context_token_ms = kTrue.context_token_ms * GetParam(),
                       .experts_ms = kTrue.experts_ms * GetParam(),
                       .expert_share = kTrue.expert_share});
  std::mt19937 random(1);
  std::normal_distribution<double> noise(0, 0.03);
  for (int i = 0; i < 400; ++i) {
    const StepShape shape = AnyShape(random);
    model.Observe(shape, TrueMs(shape) * (1 + noise(random)));
  }
  for (int i = 0; i < 100; ++i) {
    const StepShape shape = AnyShape(random);
    EXPECT_NEAR(model.PredictMs(shape) / TrueMs(shape), 1, 0.15)
        << shape.decode_rows << " rows, " << shape.prefill_tokens << " tokens, "
        << shape.context_tokens << " context";
  }
}

INSTANTIATE_TEST_SUITE_P(Priors, StepTimeFit, testing::Values(0.1, 1.0, 10.0));

TEST(StepTimeModel, StartsFromItsPrior) {
  const StepTimeModel model(kTrue);
  const StepShape shape{.decode_rows = 4, .prefill_tokens = 100, .context_tokens = 5000};
  EXPECT_DOUBLE_EQ(model.PredictMs(shape), TrueMs(shape));
}

TEST(StepTimeModel, FollowsAMachineThatBecomesSlower) {
  StepTimeModel model(kTrue);
  const StepShape shape{.decode_rows = 8};
  for (int i = 0; i < 2000; ++i) model.Observe(shape, TrueMs(shape));
  for (int i = 0; i < 300; ++i) model.Observe(shape, 2 * TrueMs(shape));
  EXPECT_NEAR(model.PredictMs(shape), 2 * TrueMs(shape), 0.2 * TrueMs(shape));
}

TEST(StepTimeModel, OneDisturbedStepMovesLittle) {
  StepTimeModel model(kTrue);
  std::mt19937 random(2);
  for (int i = 0; i < 300; ++i) {
    const StepShape shape = AnyShape(random);
    model.Observe(shape, TrueMs(shape));
  }
  const StepShape shape{.decode_rows = 8, .prefill_tokens = 64, .context_tokens = 1000};
  model.Observe(shape, 100 * TrueMs(shape));
  EXPECT_LT(model.PredictMs(shape), 1.5 * TrueMs(shape));
}

TEST(StepTimeModel, KeepsWhatTheLastStepsDoNotShow) {
  StepTimeModel model({.fixed_ms = 1,
                       .decode_row_ms = 1,
                       .prefill_token_ms = 1,
                       .context_token_ms = 1e-5,
                       .experts_ms = 1,
                       .expert_share = kTrue.expert_share});
  std::mt19937 random(3);
  for (int i = 0; i < 400; ++i) {
    const StepShape shape = AnyShape(random);
    model.Observe(shape, TrueMs(shape));
  }
  for (int i = 0; i < 20000; ++i) model.Observe({.decode_rows = 1}, TrueMs({.decode_rows = 1}));
  const StepShape prefill{.prefill_tokens = 500};
  EXPECT_NEAR(model.PredictMs(prefill) / TrueMs(prefill), 1, 0.25);
}

TEST(StepTimeModel, CostsNeverBecomeNegative) {
  StepTimeModel model(kTrue);
  std::mt19937 random(4);
  for (int i = 0; i < 1000; ++i) {
    model.Observe(AnyShape(random), 1e-3 + static_cast<double>(random() % 1000) / 10);
    const StepCosts costs = model.costs();
    ASSERT_GT(costs.fixed_ms, 0);
    ASSERT_GT(costs.decode_row_ms, 0);
    ASSERT_GT(costs.prefill_token_ms, 0);
    ASSERT_GT(costs.context_token_ms, 0);
    ASSERT_GT(costs.experts_ms, 0);
  }
}

// What decode and small chunks show of a model most of whose bytes are experts is also right for
// chunks that choose all of them.
TEST(StepTimeModel, KnowsThatManyRowsReadTheExpertsOnce) {
  const StepCosts truth{.fixed_ms = 40,
                        .decode_row_ms = 3,
                        .prefill_token_ms = 2.5,
                        .context_token_ms = 1e-5,
                        .experts_ms = 330,
                        .expert_share = 6.0 / 64};
  const StepTimeModel true_model(truth);
  StepCosts prior = truth;
  prior.fixed_ms *= 3;
  prior.prefill_token_ms *= 2;
  prior.experts_ms *= 4;
  StepTimeModel model(prior);
  std::mt19937 random(5);
  for (int i = 0; i < 200; ++i) {
    StepShape shape;
    (i % 2 == 0 ? shape.decode_rows : shape.prefill_tokens) =
        static_cast<int32_t>(1 + random() % 40);
    model.Observe(shape, true_model.PredictMs(shape));
  }
  const StepShape whole{.prefill_tokens = 512};
  EXPECT_NEAR(model.PredictMs(whole) / true_model.PredictMs(whole), 1, 0.2);
}

TEST(GuessCosts, IsPositiveAndGrowsWithTheModel) {
  const ModelSize sizes[] = {{1e6, 1e6, 0.25, 1e6, 64}, {1e9, 15e9, 0.1, 2.4e9, 16 * 1088}};
  const StepCosts small = GuessCosts(sizes[0], 1e12), large = GuessCosts(sizes[1], 1e12);
  EXPECT_GT(small.fixed_ms, 0);
  EXPECT_GT(large.fixed_ms, small.fixed_ms);
  EXPECT_GT(large.experts_ms, small.experts_ms);
  EXPECT_GT(large.decode_row_ms, small.decode_row_ms);
  EXPECT_GT(large.prefill_token_ms, small.prefill_token_ms);
  EXPECT_GT(large.context_token_ms, small.context_token_ms);
  EXPECT_LT(GuessCosts(sizes[1], 8e12).prefill_token_ms, large.prefill_token_ms);
  EXPECT_EQ(large.expert_share, 0.1);
}

}  // namespace
}  // namespace conclave::engine

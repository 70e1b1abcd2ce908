#include "kernels/gate.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <set>
#include <vector>

#include "kernels/ref/rows.h"
#include "tests/kernels/random_rows.h"

namespace conclave::kernels {
namespace {

struct Routes {
  std::vector<int32_t> ids;
  std::vector<float> weights;
};

Routes RunReference(const GateParameters& parameters, const std::vector<float>& logits) {
  const int64_t tokens = static_cast<int64_t>(logits.size()) / parameters.num_experts;
  Routes routes{std::vector<int32_t>(static_cast<size_t>(tokens * parameters.top_k)),
                std::vector<float>(static_cast<size_t>(tokens * parameters.top_k))};
  ref::Gate(parameters, DenseView<const float>(logits.data(), tokens, parameters.num_experts),
            DenseView(routes.ids.data(), tokens, parameters.top_k),
            DenseView(routes.weights.data(), tokens, parameters.top_k));
  return routes;
}

// Runs the gate, checks that every level gives the reference's routes, and returns them.
Routes RouteTokens(const GateParameters& parameters, const std::vector<float>& logits) {
  const Routes expected = RunReference(parameters, logits);
  const int64_t tokens = static_cast<int64_t>(logits.size()) / parameters.num_experts;
  for (CpuLevel level : SupportedLevels()) {
    for (int threads : {1, 2, 3}) {
      Context context(level, threads);
      Routes routes{std::vector<int32_t>(expected.ids.size(), -1),
                    std::vector<float>(expected.weights.size(), -1.0f)};
      Gate(parameters, DenseView<const float>(logits.data(), tokens, parameters.num_experts),
           DenseView(routes.ids.data(), tokens, parameters.top_k),
           DenseView(routes.weights.data(), tokens, parameters.top_k), context);
      EXPECT_EQ(routes.ids, expected.ids) << CpuLevelName(level);
      EXPECT_TRUE(SameBits(routes.weights, expected.weights)) << CpuLevelName(level);
    }
  }
  return expected;
}

TEST(GateTest, SoftmaxWeightsAreProbabilitiesInDescendingOrder) {
  GateParameters parameters;
  parameters.num_experts = 4;
  parameters.top_k = 2;
  const Routes routes = RouteTokens(parameters, {0.0f, std::log(3.0f), std::log(2.0f), 0.0f});
  EXPECT_EQ(routes.ids, (std::vector<int32_t>{1, 2}));
  EXPECT_NEAR(routes.weights[0], 3.0 / 7, 1e-6);
  EXPECT_NEAR(routes.weights[1], 2.0 / 7, 1e-6);
}

TEST(GateTest, NormalisedWeightsSumToTheScale) {
  GateParameters parameters;
  parameters.num_experts = 8;
  parameters.top_k = 3;
  parameters.normalise = true;
  parameters.normalise_epsilon = 1e-20f;
  parameters.scale = 2.5f;
  for (GateScoring scoring : {GateScoring::kSoftmax, GateScoring::kSigmoid}) {
    parameters.scoring = scoring;
    Rng rng(1);
    const Routes routes = RouteTokens(parameters, rng.Normals(8 * 50, 2.0f));
    for (size_t t = 0; t < 50; ++t) {
      EXPECT_NEAR(routes.weights[3 * t] + routes.weights[3 * t + 1] + routes.weights[3 * t + 2],
                  2.5f, 1e-5);
    }
  }
}

TEST(GateTest, TiesGoToTheLowerId) {
  GateParameters parameters;
  parameters.num_experts = 6;
  parameters.top_k = 4;
  EXPECT_EQ(RouteTokens(parameters, {1, 2, 1, 2, 1, 2}).ids, (std::vector<int32_t>{1, 3, 5, 0}));
  EXPECT_EQ(RouteTokens(parameters, std::vector<float>(6, 0.0f)).ids,
            (std::vector<int32_t>{0, 1, 2, 3}));
}

TEST(GateTest, OneExpertAndAllExpertsWork) {
  GateParameters one;
  one.num_experts = 1;
  one.top_k = 1;
  const Routes routes = RouteTokens(one, {-3.0f});
  EXPECT_EQ(routes.ids, (std::vector<int32_t>{0}));
  EXPECT_EQ(routes.weights[0], 1.0f);

  GateParameters all;
  all.num_experts = 17;
  all.top_k = 17;
  Rng rng(2);
  const Routes every = RouteTokens(all, rng.Normals(17));
  EXPECT_EQ(std::set<int32_t>(every.ids.begin(), every.ids.end()).size(), 17u);
  EXPECT_TRUE(std::is_sorted(every.weights.rbegin(), every.weights.rend()));
}

TEST(GateTest, TheBiasChoosesButDoesNotWeigh) {
  const float bias[] = {0.0f, 0.0f, 10.0f, 0.0f};
  GateParameters parameters;
  parameters.num_experts = 4;
  parameters.top_k = 2;
  parameters.scoring = GateScoring::kSigmoid;
  parameters.correction_bias = bias;
  const Routes routes = RouteTokens(parameters, {3.0f, 1.0f, -2.0f, 0.0f});
  EXPECT_EQ(routes.ids, (std::vector<int32_t>{2, 0}));
  EXPECT_NEAR(routes.weights[0], 1 / (1 + std::exp(2.0)), 1e-6);
  EXPECT_NEAR(routes.weights[1], 1 / (1 + std::exp(-3.0)), 1e-6);
}

TEST(GateTest, OnlyTheBestGroupsAreChosenFrom) {
  GateParameters parameters;
  parameters.num_experts = 9;
  parameters.top_k = 4;
  parameters.scoring = GateScoring::kSigmoid;
  parameters.num_groups = 3;
  parameters.top_groups = 2;
  const std::vector<float> logits = {5, -9, -9, 3, 3, 0, 4, 1, 0};
  parameters.grouping = GroupScoring::kMax;  // groups score 5, 3, 4
  EXPECT_EQ(RouteTokens(parameters, logits).ids, (std::vector<int32_t>{0, 6, 7, 8}));
  parameters.grouping = GroupScoring::kTopTwoSum;  // the first group's second best is bad
  EXPECT_EQ(RouteTokens(parameters, logits).ids, (std::vector<int32_t>{6, 3, 4, 7}));
}

TEST(GateTest, DroppedGroupsComeLastWhenTooFewRemain) {
  GateParameters parameters;
  parameters.num_experts = 6;
  parameters.top_k = 4;
  parameters.grouping = GroupScoring::kMax;
  parameters.num_groups = 3;
  parameters.top_groups = 1;
  EXPECT_EQ(RouteTokens(parameters, {0, 1, 5, 4, 2, 3}).ids, (std::vector<int32_t>{2, 3, 0, 1}));
}

TEST(GateTest, NanAndInfiniteLogitsGiveValidIds) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const float infinity = std::numeric_limits<float>::infinity();
  for (GateScoring scoring : {GateScoring::kSoftmax, GateScoring::kSigmoid}) {
    GateParameters parameters;
    parameters.num_experts = 5;
    parameters.top_k = 3;
    parameters.scoring = scoring;
    EXPECT_EQ(RouteTokens(parameters, std::vector<float>(5, nan)).ids,
              (std::vector<int32_t>{0, 1, 2}));
    for (const std::vector<float>& logits :
         {std::vector<float>{1, nan, 2, 3, 0}, {infinity, 0, 0, 0, 0}, {-infinity, 1, 0, 0, 0}}) {
      const Routes routes = RouteTokens(parameters, logits);
      EXPECT_EQ(std::set<int32_t>(routes.ids.begin(), routes.ids.end()).size(), 3u);
    }
  }
}

TEST(GateTest, RandomGatesGiveTheReferencesBits) {
  Rng rng(3);
  for (int round = 0; round < 60; ++round) {
    GateParameters parameters;
    parameters.num_groups = static_cast<int32_t>(1 + rng.Below(5));
    parameters.num_experts = static_cast<int32_t>(parameters.num_groups * (1 + rng.Below(40)));
    parameters.top_k = static_cast<int32_t>(1 + rng.Below(std::min(64, parameters.num_experts)));
    parameters.top_groups = static_cast<int32_t>(1 + rng.Below(parameters.num_groups));
    parameters.scoring = rng.Below(2) == 0 ? GateScoring::kSoftmax : GateScoring::kSigmoid;
    parameters.grouping = static_cast<GroupScoring>(rng.Below(3));
    parameters.normalise = rng.Below(2) == 0;
    const std::vector<float> bias = rng.Normals(parameters.num_experts, 0.1f);
    parameters.correction_bias = rng.Below(2) == 0 ? bias.data() : nullptr;
    std::vector<float> logits = rng.Normals(parameters.num_experts * 20, 2.0f);
    if (round % 3 == 0) {
      for (float& logit : logits) logit = std::round(logit);  // many ties
    }
    RouteTokens(parameters, logits);
  }
}

TEST(GateTest, ThreadsShareManyTokens) {
  Rng rng(5);
  GateParameters parameters;
  parameters.num_experts = 64;
  parameters.top_k = 6;
  RouteTokens(parameters, rng.Normals(64 * 600));
}

TEST(CombineExpertsTest, LevelsAddInGateOrderWithTheReferencesBits) {
  Rng rng(4);
  for (int64_t width : {1, 16, 33, 257}) {
    const int64_t tokens = 23, top_k = 6;
    const std::vector<float> rows = rng.Normals(tokens * top_k * width);
    const std::vector<float> weights = rng.Normals(tokens * top_k);
    const std::vector<float> start = rng.Normals(tokens * width);
    std::vector<float> expected = start;
    const auto rows_view = DenseView<const float>(rows.data(), tokens * top_k, width);
    const auto weights_view = DenseView<const float>(weights.data(), tokens, top_k);
    ref::CombineExperts(rows_view, weights_view, DenseView(expected.data(), tokens, width));
    float first = start[0];
    for (int64_t j = 0; j < top_k; ++j) first = std::fma(weights[j], rows[j * width], first);
    EXPECT_EQ(expected[0], first);
    for (CpuLevel level : SupportedLevels()) {
      for (int threads : {1, 2}) {
        Context context(level, threads);
        std::vector<float> sums = start;
        CombineExperts(rows_view, weights_view, DenseView(sums.data(), tokens, width), context);
        EXPECT_TRUE(SameBits(sums, expected)) << width;
      }
    }
  }
}

}  // namespace
}  // namespace conclave::kernels

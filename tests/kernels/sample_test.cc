#include "kernels/sample.h"

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <set>
#include <vector>

#include "kernels/ref/sample.h"
#include "tests/kernels/random_rows.h"

namespace conclave::kernels {
namespace {

constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Everything that Sample reads, with its memory.
struct Request {
  SampleParameters parameters;
  SamplePosition position;
  std::vector<std::pair<int32_t, float>> bias;
  std::vector<int32_t> banned;
  std::vector<TokenCount> counts;
  std::vector<float> logits;
};

// Samples at every level, checks that all agree with the reference, and returns the result.
SampleResult SampleEverywhere(Request request) {
  request.parameters.logit_bias = request.bias;
  request.parameters.banned_ids = request.banned;
  const SampleResult expected =
      ref::Sample(request.parameters, request.position, request.counts, request.logits);
  for (CpuLevel level : SupportedLevels()) {
    SampleScratch scratch;
    scratch.level = level;
    const SampleResult result =
        Sample(request.parameters, request.position, request.counts, request.logits, scratch);
    EXPECT_EQ(result.id, expected.id) << CpuLevelName(level);
    EXPECT_TRUE(SameBits({result.logprob}, {expected.logprob}));
    EXPECT_EQ(result.top_logprobs.size(), expected.top_logprobs.size());
    if (result.top_logprobs.size() != expected.top_logprobs.size()) return expected;
    for (size_t i = 0; i < result.top_logprobs.size(); ++i) {
      EXPECT_EQ(result.top_logprobs[i].id, expected.top_logprobs[i].id);
      EXPECT_TRUE(SameBits({result.top_logprobs[i].logprob}, {expected.top_logprobs[i].logprob}));
    }
  }
  return expected;
}

Request Greedy(std::vector<float> logits) {
  Request request;
  request.parameters.temperature = 0.0f;
  request.logits = std::move(logits);
  return request;
}

// How often each id comes in `draws` draws at successive indices. Uses the fast path of the best
// level.
std::map<int32_t, int> Histogram(Request request, uint32_t draws) {
  request.parameters.logit_bias = request.bias;
  request.parameters.banned_ids = request.banned;
  std::map<int32_t, int> histogram;
  SampleScratch scratch;
  for (uint32_t i = 0; i < draws; ++i) {
    request.position = {42, 0, i};
    ++histogram
        [Sample(request.parameters, request.position, request.counts, request.logits, scratch).id];
  }
  return histogram;
}

std::set<int32_t> Support(const Request& request) {
  std::set<int32_t> ids;
  for (const auto& [id, count] : Histogram(request, 4000)) ids.insert(id);
  return ids;
}

TEST(GreedyTest, TakesTheLargestAndTheLowerIdOfATie) {
  EXPECT_EQ(SampleEverywhere(Greedy({1, 3, 2})).id, 1);
  EXPECT_EQ(SampleEverywhere(Greedy({3, 1, 3})).id, 0);
  EXPECT_EQ(SampleEverywhere(Greedy({-0.0f, 0.0f})).id, 0);
  std::vector<float> wide(1000, -1.0f);
  wide[513] = wide[997] = 2.0f;
  EXPECT_EQ(SampleEverywhere(Greedy(wide)).id, 513);
}

TEST(GreedyTest, IgnoresNanAndTakesInfinityAsTheLargestFloat) {
  EXPECT_EQ(SampleEverywhere(Greedy({kNan, -5, kNan, -4})).id, 3);
  EXPECT_EQ(SampleEverywhere(Greedy({0, std::numeric_limits<float>::max(), kInfinity})).id, 1);
  EXPECT_EQ(SampleEverywhere(Greedy({0, kInfinity})).id, 1);
  EXPECT_EQ(SampleEverywhere(Greedy({kNan, kNan})).id, 0);
  EXPECT_EQ(SampleEverywhere(Greedy({kNan, -kInfinity})).id, 0);
}

TEST(SampleTest, ChoosesIdZeroWhenNothingMayBeChosen) {
  Request request;
  request.logits = {1, 2, 3};
  request.banned = {0, 1, 2};
  EXPECT_EQ(SampleEverywhere(request).id, 0);
  request.parameters.num_top_logprobs = 2;
  request.logits = {kNan, kNan, -kInfinity};
  const SampleResult result = SampleEverywhere(request);
  EXPECT_EQ(result.id, 0);
  EXPECT_EQ(result.logprob, -kInfinity);
  EXPECT_TRUE(result.top_logprobs.empty());
}

TEST(SampleTest, BannedIdsAreNeverChosen) {
  Request request = Greedy({5, 4, 3});
  request.banned = {0, 99, -1};
  EXPECT_EQ(SampleEverywhere(request).id, 1);
  request.parameters.temperature = 1.0f;
  EXPECT_EQ(Support(request), (std::set<int32_t>{1, 2}));
}

TEST(SampleTest, LogitBiasAddsAndIgnoresForeignIds) {
  Request request = Greedy({5, 4, 3});
  request.bias = {{2, 1.5f}, {2, 1.0f}, {7, 100.0f}, {-3, 100.0f}};
  EXPECT_EQ(SampleEverywhere(request).id, 2);
}

TEST(PenaltyTest, RepetitionDividesPositiveAndMultipliesNegativeLogits) {
  Request request = Greedy({4.0f, 3.0f, -1.0f});
  request.parameters.repetition_penalty = 2.0f;
  request.counts = {{0, 1, 0}};  // in the prompt alone: 4 becomes 2
  EXPECT_EQ(SampleEverywhere(request).id, 1);
  request.logits = {-4.0f, -5.0f, -7.0f};  // -4 becomes -8
  EXPECT_EQ(SampleEverywhere(request).id, 1);
  request.counts = {{0, 0, 1}, {1, 0, 2}};  // -8, -10, -7
  EXPECT_EQ(SampleEverywhere(request).id, 2);
}

TEST(PenaltyTest, PresenceAndFrequencyCountTheOutputAlone) {
  Request request = Greedy({2.0f, 1.5f});
  request.parameters.presence_penalty = 1.0f;
  request.counts = {{0, 3, 0}};
  EXPECT_EQ(SampleEverywhere(request).id, 0);
  request.counts = {{0, 3, 1}};
  EXPECT_EQ(SampleEverywhere(request).id, 1);
  request.parameters.presence_penalty = 0.0f;
  request.parameters.frequency_penalty = 0.2f;
  EXPECT_EQ(SampleEverywhere(request).id, 0);  // 2 - 0.2
  request.counts = {{0, 3, 3}};
  EXPECT_EQ(SampleEverywhere(request).id, 1);  // 2 - 0.6
  request.parameters.frequency_penalty = -0.5f;
  EXPECT_EQ(SampleEverywhere(request).id, 0);
}

TEST(TopKTest, KeepsExactlyKAndTheLowerIdsOfATie) {
  Request request;
  request.logits = {1, 3, 1, 3, 1, 3};
  request.parameters.top_k = 2;
  EXPECT_EQ(Support(request), (std::set<int32_t>{1, 3}));
  request.parameters.top_k = 4;
  EXPECT_EQ(Support(request), (std::set<int32_t>{0, 1, 3, 5}));
  request.parameters.top_k = 1;
  EXPECT_EQ(Support(request), (std::set<int32_t>{1}));
  request.parameters.top_k = 600;
  EXPECT_EQ(Support(request).size(), 6u);
}

TEST(TopPTest, KeepsTheSmallestSetThatReachesP) {
  Request request;
  request.logits = {std::log(0.1f), std::log(0.5f), std::log(0.15f), std::log(0.25f)};
  request.parameters.top_p = 0.45f;
  EXPECT_EQ(Support(request), (std::set<int32_t>{1}));
  request.parameters.top_p = 0.55f;
  EXPECT_EQ(Support(request), (std::set<int32_t>{1, 3}));
  request.parameters.top_p = 0.8f;
  EXPECT_EQ(Support(request), (std::set<int32_t>{1, 2, 3}));
  request.parameters.top_p = 0.95f;
  EXPECT_EQ(Support(request).size(), 4u);
  request.parameters.top_p = 1e-9f;
  EXPECT_EQ(Support(request), (std::set<int32_t>{1}));
}

TEST(TopPTest, IsOverWhatTopKLeft) {
  Request request;
  request.logits = {std::log(0.4f), std::log(0.3f), std::log(0.2f), std::log(0.1f)};
  request.parameters.top_k = 2;  // renormalised: 4/7 and 3/7
  request.parameters.top_p = 0.5f;
  EXPECT_EQ(Support(request), (std::set<int32_t>{0}));
  request.parameters.top_p = 0.6f;
  EXPECT_EQ(Support(request), (std::set<int32_t>{0, 1}));
}

TEST(MinPTest, IsRelativeToTheLargestProbability) {
  Request request;
  request.logits = {std::log(0.5f), std::log(0.3f), std::log(0.15f), std::log(0.05f)};
  request.parameters.min_p = 0.25f;
  EXPECT_EQ(Support(request), (std::set<int32_t>{0, 1, 2}));
  request.parameters.min_p = 0.5f;
  EXPECT_EQ(Support(request), (std::set<int32_t>{0, 1}));
  request.parameters.min_p = 1.0f;
  EXPECT_EQ(Support(request), (std::set<int32_t>{0}));
}

TEST(TemperatureTest, TinyTemperaturesAreGreedyAndNeverOverflow) {
  Request request;
  request.logits = {-3e38f, 3e38f, 0, 2.9e38f};
  request.parameters.temperature = 1e-30f;
  EXPECT_EQ(SampleEverywhere(request).id, 1);
  request.parameters.temperature = 100.0f;
  EXPECT_EQ(SampleEverywhere(request).id, 1);
}

// Chi-square with 5 degrees of freedom: above 20.5 once in a thousand; seed and draws are fixed.
TEST(DistributionTest, FrequenciesFollowTheProbabilities) {
  Request request;
  request.parameters.temperature = 2.0f;
  const std::vector<double> weights = {1, 2, 3, 4, 5, 6};
  for (double weight : weights) {
    request.logits.push_back(static_cast<float>(2.0 * std::log(weight)));
  }
  constexpr uint32_t kDraws = 42000;
  const std::map<int32_t, int> histogram = Histogram(request, kDraws);
  double chi_square = 0;
  for (size_t i = 0; i < weights.size(); ++i) {
    const double expected = kDraws * weights[i] / 21;
    const double difference = histogram.at(static_cast<int32_t>(i)) - expected;
    chi_square += difference * difference / expected;
  }
  EXPECT_LT(chi_square, 20.5);
}

TEST(DistributionTest, SeedChoiceAndIndexEachChangeTheDraw) {
  Request request;
  request.logits.assign(1000, 0.0f);
  request.position = {1, 0, 0};
  const int32_t first = SampleEverywhere(request).id;
  EXPECT_EQ(SampleEverywhere(request).id, first);
  for (const SamplePosition& position : {SamplePosition{2, 0, 0}, {1, 1, 0}, {1, 0, 1}}) {
    request.position = position;
    EXPECT_NE(SampleEverywhere(request).id, first);
  }
}

TEST(LogprobTest, IsOfTheRawDistribution) {
  Request request = Greedy({std::log(0.5f), std::log(0.3f), std::log(0.2f)});
  request.banned = {0};
  request.bias = {{1, 5.0f}};
  request.parameters.num_top_logprobs = 2;
  const SampleResult result = SampleEverywhere(request);
  EXPECT_EQ(result.id, 1);
  EXPECT_NEAR(result.logprob, std::log(0.3), 1e-6);
  ASSERT_EQ(result.top_logprobs.size(), 2u);
  EXPECT_EQ(result.top_logprobs[0].id, 0);
  EXPECT_NEAR(result.top_logprobs[0].logprob, std::log(0.5), 1e-6);
  EXPECT_EQ(result.top_logprobs[1].id, 1);
}

TEST(LogprobTest, CountsBeyondTheVocabularyAreCutAndZeroGivesTheChosenAlone) {
  Request request = Greedy({1, 1, 0});
  request.parameters.num_top_logprobs = 20;
  const SampleResult all = SampleEverywhere(request);
  ASSERT_EQ(all.top_logprobs.size(), 3u);
  EXPECT_EQ(all.top_logprobs[0].id, 0);
  EXPECT_EQ(all.top_logprobs[1].id, 1);
  request.parameters.num_top_logprobs = 0;
  EXPECT_TRUE(SampleEverywhere(request).top_logprobs.empty());
  EXPECT_LT(SampleEverywhere(request).logprob, 0.0f);
}

TEST(LogprobTest, ProbabilitiesOfALargeVocabularySumToOne) {
  Rng rng(9);
  Request request = Greedy(rng.Normals(50000, 3.0f));
  request.parameters.num_top_logprobs = 50000;
  double sum = 0;
  for (const TokenLogprob& top : SampleEverywhere(request).top_logprobs) {
    sum += std::exp(double{top.logprob});
  }
  EXPECT_NEAR(sum, 1.0, 1e-5);
}

// Any parameters on any row: the fast path chooses what sorting everything would.
TEST(SamplePropertyTest, AgreesWithTheReference) {
  EXPECT_TRUE(rc::check([] {
    Rng rng(*rc::gen::arbitrary<uint64_t>());
    Request request;
    const int64_t vocab_size = *rc::gen::element<int64_t>(1, 2, 15, 17, 255, 256, 257, 3000);
    request.logits = rng.Normals(vocab_size, *rc::gen::element(0.01f, 1.0f, 10.0f));
    if (*rc::gen::arbitrary<bool>()) {
      for (float& logit : request.logits) logit = std::round(logit);  // ties
    }
    if (*rc::gen::arbitrary<bool>()) {
      const float specials[] = {kNan, kInfinity, -kInfinity, -0.0f};
      for (int i = 0; i < 5; ++i) {
        request.logits[static_cast<size_t>(rng.Below(vocab_size))] = specials[rng.Below(4)];
      }
    }
    SampleParameters& parameters = request.parameters;
    parameters.temperature = *rc::gen::element(0.0f, 1e-3f, 0.7f, 1.0f, 3.0f);
    parameters.top_k = *rc::gen::element(0, 1, 2, 10, 40, 500);
    parameters.top_p = *rc::gen::element(1e-6f, 0.1f, 0.5f, 0.9f, 0.999999f, 1.0f);
    parameters.min_p = *rc::gen::element(0.0f, 1e-7f, 0.01f, 0.2f, 1.0f);
    parameters.repetition_penalty = *rc::gen::element(1.0f, 0.5f, 1.3f);
    parameters.presence_penalty = *rc::gen::element(0.0f, -0.5f, 1.5f);
    parameters.frequency_penalty = *rc::gen::element(0.0f, -0.1f, 0.3f);
    parameters.num_top_logprobs = *rc::gen::element(-1, 0, 5, 20);
    for (int64_t i = rng.Below(4); i > 0; --i) {
      request.bias.emplace_back(static_cast<int32_t>(rng.Below(vocab_size + 2) - 1),
                                rng.Normal(5.0f));
    }
    for (int64_t i = rng.Below(4); i > 0; --i) {
      request.banned.push_back(static_cast<int32_t>(rng.Below(vocab_size + 2) - 1));
    }
    for (int32_t id = 0; id < vocab_size && id < 40; id += static_cast<int32_t>(1 + rng.Below(9))) {
      request.counts.push_back(
          {id, static_cast<int32_t>(rng.Below(3)), static_cast<int32_t>(rng.Below(3))});
    }
    request.position = {*rc::gen::arbitrary<uint64_t>(), 0, static_cast<uint32_t>(rng.Below(9))};
    SampleEverywhere(request);
    RC_ASSERT(!::testing::Test::HasFailure());
  }));
}

}  // namespace
}  // namespace conclave::kernels

#include "services/engine/evaluation/token_scores.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

namespace conclave::engine {
namespace {

constexpr double kTolerance = 1e-7;  // logits are f32: log(3) and the like are rounded

std::vector<float> Logs(const std::vector<double>& weights) {
  std::vector<float> logits;
  for (const double weight : weights) logits.push_back(static_cast<float>(std::log(weight)));
  return logits;
}

TEST(TokenScoresTest, NllIsThatOfTheToken) {
  const std::vector<float> logits = Logs({1, 2, 5});
  EXPECT_NEAR(ScoreToken(logits, 0).nll, std::log(8.0), kTolerance);
  EXPECT_NEAR(ScoreToken(logits, 2).nll, std::log(8.0 / 5), kTolerance);
  EXPECT_EQ(ScoreToken(logits, logits, 1).nll, ScoreToken(logits, 1).nll);
  EXPECT_NEAR(ScoreToken(Logs({1, 1, 1}), logits, 1).reference_nll, std::log(4.0), kTolerance);
}

TEST(TokenScoresTest, LargeLogitsDoNotOverflow) {
  EXPECT_NEAR(ScoreToken(std::vector<float>{1e30f, 0}, 0).nll, 0, kTolerance);
  EXPECT_NEAR(ScoreToken(std::vector<float>{-5000, -5000}, 0).nll, std::log(2.0), kTolerance);
  EXPECT_NEAR(ScoreToken(std::vector<float>{5000, 4000}, 1).nll, 1000, kTolerance);
}

TEST(TokenScoresTest, KlIsFromTheReferenceToTheLogits) {
  const std::vector<float> half = Logs({1, 1});
  const std::vector<float> quarter = Logs({1, 3});
  const double forwards = 0.5 * std::log(0.5 / 0.25) + 0.5 * std::log(0.5 / 0.75);
  const double backwards = 0.25 * std::log(0.25 / 0.5) + 0.75 * std::log(0.75 / 0.5);
  ASSERT_GT(std::fabs(forwards - backwards), 0.01);
  EXPECT_NEAR(ScoreToken(quarter, half, 0).kl, forwards, kTolerance);
  EXPECT_NEAR(ScoreToken(half, quarter, 0).kl, backwards, kTolerance);
}

TEST(TokenScoresTest, EqualLogitsAreNoDistanceAtAll) {
  std::vector<float> logits;
  for (int i = 0; i < 1000; ++i) logits.push_back(std::sin(static_cast<float>(i)) * 9);
  const TokenScore score = ScoreToken(logits, logits, 17);
  EXPECT_EQ(score.kl, 0.0);
  EXPECT_EQ(score.nll, score.reference_nll);
  EXPECT_TRUE(score.same_argmax);
}

TEST(TokenScoresTest, AShiftOfAllLogitsChangesNothing) {
  const TokenScore score = ScoreToken(std::vector<float>{3, 4, 6}, std::vector<float>{0, 1, 3}, 1);
  EXPECT_NEAR(score.kl, 0, kTolerance);
  EXPECT_GE(score.kl, 0);
  EXPECT_NEAR(score.nll, score.reference_nll, kTolerance);
}

TEST(TokenScoresTest, FirstChoiceGoesToTheLowerId) {
  EXPECT_TRUE(ScoreToken(std::vector<float>{2, 2, 1}, std::vector<float>{3, 0, 0}, 0).same_argmax);
  EXPECT_FALSE(ScoreToken(std::vector<float>{2, 2, 1}, std::vector<float>{0, 3, 0}, 0).same_argmax);
}

TEST(TokenScoresTest, WhatIsNotFiniteShows) {
  const float nan = std::nanf("");
  EXPECT_FALSE(std::isfinite(ScoreToken(std::vector<float>{nan, 0}, 1).nll));
  EXPECT_FALSE(std::isfinite(ScoreToken(std::vector<float>{0, nan}, 0).nll));
  EXPECT_FALSE(std::isfinite(
      ScoreToken(std::vector<float>{0, 0}, std::vector<float>{0, nan}, 0).reference_nll));
}

TEST(TokenScoresTest, SummaryIsOfGeometricMeans) {
  const std::vector<TokenScore> scores = {
      {.nll = std::log(2), .reference_nll = std::log(2), .kl = 0.5, .same_argmax = true},
      {.nll = std::log(32), .reference_nll = std::log(8), .kl = 0.1, .same_argmax = false}};
  const ScoreSummary sum = Summarize(scores);
  EXPECT_EQ(sum.tokens, 2);
  EXPECT_NEAR(sum.perplexity, 8, 1e-12);
  EXPECT_NEAR(sum.reference_perplexity, 4, 1e-12);
  EXPECT_NEAR(sum.perplexity_ratio, 2, 1e-12);
  EXPECT_NEAR(sum.mean_kl, 0.3, 1e-12);
  EXPECT_EQ(sum.p99_kl, 0.5);
  EXPECT_EQ(sum.same_argmax_ratio, 0.5);
}

TEST(TokenScoresTest, NinetyNineOfAHundredAreWithinP99) {
  std::vector<TokenScore> scores;
  for (int i = 200; i > 0; --i) scores.push_back({.kl = static_cast<double>(i)});
  EXPECT_EQ(Summarize(scores).p99_kl, 198);
  scores.resize(100);  // 200 to 101
  EXPECT_EQ(Summarize(scores).p99_kl, 199);
  scores.resize(1);
  EXPECT_EQ(Summarize(scores).p99_kl, 200);
}

}  // namespace
}  // namespace conclave::engine

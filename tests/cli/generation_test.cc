#include "services/cli/generation.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "CLI/CLI.hpp"
#include "services/cli/generation_flags.h"

namespace conclave::cli {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

GenerationResult SomeResult() {
  GenerationResult result;
  result.seed = 7;
  result.prompt_ids = {1, 2, 3};
  result.ids = {10, 11};
  return result;
}

TEST(DigestTest, IsTheHashOfAKnownText) {
  Parameters parameters;
  parameters.temperature = 0.7;
  parameters.stop = {"\n"};
  EXPECT_EQ(CanonicalText(parameters, SomeResult()),
            "conclave digest 1\nprompt 1,2,3\nseed 7\ntemperature 0.7\nstop 0a\noutput 10,11\n");
  // printf 'conclave digest 1\nprompt 1,2,3\nseed 7\ntemperature 0.7\nstop 0a\noutput 10,11\n' |
  // sha256sum
  EXPECT_EQ(Digest(parameters, SomeResult()), "d5d7c17f");
}

TEST(DigestTest, CoversPromptSeedParametersAndOutput) {
  const Parameters parameters;
  const std::string digest = Digest(parameters, SomeResult());
  GenerationResult other = SomeResult();
  other.prompt_ids.push_back(4);
  EXPECT_NE(Digest(parameters, other), digest);
  other = SomeResult();
  other.seed = 8;
  EXPECT_NE(Digest(parameters, other), digest);
  other = SomeResult();
  other.ids.back() = 12;
  EXPECT_NE(Digest(parameters, other), digest);
  Parameters changed;
  changed.max_tokens = 5;
  EXPECT_NE(Digest(changed, SomeResult()), digest);
}

TEST(DigestTest, DoesNotCoverWhatLeavesTheOutputAlone) {
  Parameters paced;
  paced.pace = 20;
  GenerationResult other = SomeResult();
  other.request_id = "another";
  other.cached_tokens = 3;
  other.total = milliseconds(5);
  EXPECT_EQ(Digest(paced, other), Digest(Parameters(), SomeResult()));
}

TEST(DigestTest, ASeedGivenAndTheSameSeedDrawnAreEqual) {
  Parameters given;
  given.seed = 7;
  EXPECT_EQ(Digest(given, SomeResult()), Digest(Parameters(), SomeResult()));
}

TEST(DigestTest, TheSeedOfAGreedyAnswerDoesNotCount) {
  Parameters greedy;
  greedy.temperature = 0;
  GenerationResult other = SomeResult();
  other.seed = 8;
  EXPECT_EQ(Digest(greedy, other), Digest(greedy, SomeResult()));
}

TEST(GenerationResultTest, ABurstHasNoSpeed) {
  GenerationResult result;
  result.arrivals = {{milliseconds(300), 1}, {milliseconds(300), 1}, {milliseconds(300), 1}};
  EXPECT_EQ(result.tokens_per_second(), 0);
}

TEST(GenerationResultTest, MeasuresFromArrivals) {
  GenerationResult result;
  result.arrivals = {{milliseconds(11), 1}, {milliseconds(21), 2}, {milliseconds(51), 2}};
  EXPECT_DOUBLE_EQ(result.first_token_seconds(), 0.011);
  EXPECT_DOUBLE_EQ(result.seconds_per_output_token(), 0.01);
  EXPECT_DOUBLE_EQ(result.tokens_per_second(), 100);
  EXPECT_DOUBLE_EQ(result.longest_gap_seconds(), 0.03);
}

TEST(GenerationResultTest, OneTokenHasNoSpeed) {
  GenerationResult result;
  EXPECT_EQ(result.first_token_seconds(), 0);
  result.arrivals = {{milliseconds(11), 1}};
  EXPECT_EQ(result.tokens_per_second(), 0);
  EXPECT_EQ(result.longest_gap_seconds(), 0);
}

TEST(ParameterFlagsTest, FillParameters) {
  CLI::App app;
  Parameters parameters;
  AddParameterFlags(app, &parameters);
  app.parse(
      "--temperature 0.5 --top-k 3 --seed 18446744073709551615 --stop END --ignore-eos --pace 20");
  EXPECT_EQ(parameters.temperature, 0.5);
  EXPECT_EQ(parameters.top_k, 3);
  EXPECT_EQ(parameters.seed, 18446744073709551615u);
  EXPECT_EQ(parameters.stop, std::vector<std::string>{"END"});
  EXPECT_TRUE(parameters.ignore_eos);
  EXPECT_EQ(parameters.pace, 20);
  EXPECT_EQ(parameters.top_p, std::nullopt);
}

TEST(SetParameterTest, SetsResetsAndRefuses) {
  Parameters parameters;
  EXPECT_TRUE(SetParameter("temperature", "0.5", &parameters).ok());
  EXPECT_TRUE(SetParameter("max_tokens", "9", &parameters).ok());
  EXPECT_TRUE(SetParameter("seed", "3", &parameters).ok());
  EXPECT_EQ(DescribeParameters(parameters), "temperature 0.5, max_tokens 9, seed 3");
  EXPECT_TRUE(SetParameter("temperature", "default", &parameters).ok());
  EXPECT_TRUE(SetParameter("max_tokens", "default", &parameters).ok());
  EXPECT_TRUE(SetParameter("seed", "default", &parameters).ok());
  EXPECT_EQ(DescribeParameters(parameters), "all defaults");
  EXPECT_THAT(std::string(SetParameter("temprature", "1", &parameters).message()),
              HasSubstr("temperature"));
  EXPECT_THAT(std::string(SetParameter("top_k", "many", &parameters).message()),
              HasSubstr("\"many\""));
  EXPECT_FALSE(SetParameter("seed", "-1", &parameters).ok());
}

}  // namespace
}  // namespace conclave::cli

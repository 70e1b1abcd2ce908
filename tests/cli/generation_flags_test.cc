#include "services/cli/generation_flags.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>

#include "CLI/CLI.hpp"

namespace conclave::cli {
namespace {

using ::testing::HasSubstr;

TEST(GenerationFlagsTest, SetTakesWhatTheGatewayTakes) {
  Parameters parameters;
  for (const auto& [name, value] : {std::pair{"temperature", "0"},
                                    {"temperature", "2"},
                                    {"top_p", "1"},
                                    {"top_k", "0"},
                                    {"min_p", "0"},
                                    {"repetition_penalty", "10"},
                                    {"presence_penalty", "-2"},
                                    {"frequency_penalty", "2"},
                                    {"max_tokens", "1"},
                                    {"max_tokens", "2147483647"},
                                    {"min_tokens", "0"},
                                    {"pace", "0.5"},
                                    {"seed", "18446744073709551615"}}) {
    EXPECT_TRUE(SetParameter(name, value, &parameters).ok()) << name << " " << value;
  }
  EXPECT_EQ(parameters.temperature, 2.0);
  EXPECT_EQ(parameters.max_tokens, 2147483647);
  EXPECT_EQ(parameters.seed, UINT64_MAX);
  EXPECT_TRUE(SetParameter("seed", "default", &parameters).ok());
  EXPECT_TRUE(SetParameter("max_tokens", "default", &parameters).ok());
  EXPECT_EQ(parameters.seed, std::nullopt);
  EXPECT_EQ(parameters.max_tokens, std::nullopt);
}

TEST(GenerationFlagsTest, SetRefusesTheRestAndLeavesWhatWas) {
  Parameters parameters;
  ASSERT_TRUE(SetParameter("temperature", "0.5", &parameters).ok());
  for (const auto& [name, value] : {std::pair{"temperature", "2.01"},
                                    {"temperature", "-0.1"},
                                    {"temperature", "nan"},
                                    {"temperature", "inf"},
                                    {"temperature", ""},
                                    {"top_p", "0"},
                                    {"top_p", "1.1"},
                                    {"top_k", "-1"},
                                    {"top_k", "1.5"},
                                    {"min_p", "-1"},
                                    {"repetition_penalty", "0"},
                                    {"presence_penalty", "3"},
                                    {"max_tokens", "0"},
                                    {"max_tokens", "2147483648"},
                                    {"pace", "0"},
                                    {"pace", "1e7"},
                                    {"seed", "-1"},
                                    {"seed", "18446744073709551616"}}) {
    const absl::Status status = SetParameter(name, value, &parameters);
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << name << " " << value;
    EXPECT_THAT(std::string(status.message()), HasSubstr(std::string("not \"") + value + "\""));
    EXPECT_THAT(std::string(status.message()), HasSubstr(name));
  }
  EXPECT_EQ(DescribeParameters(parameters), "temperature 0.5");
  EXPECT_THAT(std::string(SetParameter("temprature", "1", &parameters).message()),
              HasSubstr("the nearest is temperature"));
}

TEST(GenerationFlagsTest, FlagsHaveTheSameRanges) {
  const auto refusal = [](const std::string& words) -> std::string {
    CLI::App app;
    Parameters parameters;
    AddParameterFlags(app, &parameters);
    try {
      app.parse(words, false);
    } catch (const CLI::ParseError& error) {
      return error.what();
    }
    return "";
  };
  EXPECT_EQ(refusal("--temperature 2 --seed 0 --stop x --presence-penalty=-2"), "");
  EXPECT_THAT(refusal("--temperature 9"), HasSubstr("from 0 to 2, not \"9\""));
  EXPECT_THAT(refusal("--seed=-1"), HasSubstr("a whole number from 0"));
  EXPECT_THAT(refusal("--stop \"\""), HasSubstr("--stop"));
}

}  // namespace
}  // namespace conclave::cli

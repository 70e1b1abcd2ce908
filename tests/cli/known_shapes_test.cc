#include "services/cli/pack/known_shapes.h"

#include <gtest/gtest.h>

#include "services/cli/checks.h"
#include "shared/weights/model_config.h"

namespace conclave::cli {
namespace {

weights::ModelConfig ConfigOf(std::string_view name) {
  std::vector<std::string> warnings;
  const auto config = weights::ParseModelConfig(std::string(name), std::string(KnownShape(name)),
                                                {.strict = true}, &warnings);
  EXPECT_TRUE(config.ok()) << config.status();
  EXPECT_TRUE(warnings.empty());
  return config.value_or(weights::ModelConfig());
}

TEST(KnownShapesTest, AreOfTheSizeThatTheyArePublishedWith) {
  EXPECT_NEAR(static_cast<double>(ParametersOf(ConfigOf("deepseek-v2-lite"))), 15.7e9, 0.05e9);
  EXPECT_NEAR(static_cast<double>(ParametersOf(ConfigOf("qwen3-30b-a3b"))), 30.5e9, 0.05e9);
  EXPECT_EQ(KnownShapes().size(), 2u);
  EXPECT_TRUE(KnownShape("gpt-5").empty());
}

}  // namespace
}  // namespace conclave::cli

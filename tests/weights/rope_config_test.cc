#include "shared/weights/rope_config.h"

#include <cmath>
#include <limits>

#include "tests/weights/config_fixture.h"

namespace conclave::weights {
namespace {

using nlohmann::json;

using RopeConfigTest = ModelConfigTest;

TEST_F(RopeConfigTest, RefusesRopeTypesByName) {
  for (const char* type : {"dynamic", "llama3", "longrope", "su", "mrope", "proportional"}) {
    for (const char* key : {"type", "rope_type"}) {
      json config = GoldenConfig("qwen3_moe");
      config["rope_scaling"] = {{key, type}, {"factor", 2.0}};
      ExpectRefused(config, absl::StatusCode::kUnimplemented,
                    std::string("rope_scaling: ") + key + " is \"" + type + "\"");
      ExpectRefused(config, absl::StatusCode::kUnimplemented,
                    "supported: \"default\", \"linear\", \"yarn\"");
    }
  }
  json config = GoldenConfig("qwen3_moe");
  config["rope_parameters"] = {{"full_attention", {{"rope_type", "default"}}}};
  ExpectRefused(config, absl::StatusCode::kUnimplemented, "one rope for all layers");
}

TEST_F(RopeConfigTest, TakesTheOriginalContextFromOutsideTheObject) {
  json config = GoldenConfig("qwen3_moe");
  config["rope_scaling"] = {{"type", "yarn"}, {"factor", 4.0}};
  config["original_max_position_embeddings"] = 48;
  EXPECT_EQ(Load(config)->rope.original_max_positions, 48);
  config["rope_scaling"]["original_max_position_embeddings"] = 48;
  EXPECT_EQ(Load(config)->rope.original_max_positions, 48);
  config["rope_scaling"]["original_max_position_embeddings"] = 64;
  ExpectRefused(config, absl::StatusCode::kInvalidArgument,
                "original_max_position_embeddings is 48, wanted the same as in rope_scaling, 64");
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 4.0}};
  EXPECT_TRUE(Load(config).ok()) << "nothing asks for it";
}

TEST_F(RopeConfigTest, RefusesContradictoryRope) {
  const auto with_scaling = [](const json& scaling) {
    json config = GoldenConfig("qwen3_moe");
    config["rope_scaling"] = scaling;
    return config;
  };
  const absl::StatusCode invalid = absl::StatusCode::kInvalidArgument;
  ExpectRefused(with_scaling(7), invalid, "rope_scaling is 7, wanted an object or null");
  ExpectRefused(with_scaling({{"type", "linear"}, {"rope_type", "yarn"}}), invalid,
                "the same as rope_type");
  ExpectRefused(with_scaling({{"type", "linear"}}), invalid, "factor is missing");
  ExpectRefused(with_scaling({{"type", "yarn"}, {"factor", 0}}), invalid, "a number above 0");
  ExpectRefused(with_scaling({{"type", "yarn"}, {"factor", "4"}}), invalid, "a number above 0");
  ExpectRefused(with_scaling({{"type", "yarn"}, {"factor", 4}, {"beta_fast", 0.5}}), invalid,
                "at least beta_slow");
  ExpectRefused(with_scaling({{"type", "default"}, {"rope_theta", 5}}), invalid,
                "rope_theta is 1000000.0, wanted the same as in rope_scaling, 5");
  json config = with_scaling({{"type", "linear"}, {"factor", 2}});
  config["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 4}};
  ExpectRefused(config, invalid, "the same as rope_scaling says");
  config["rope_parameters"] = {{"rope_type", "linear"}, {"factor", 2}};
  EXPECT_TRUE(Load(config).ok());
}

TEST_F(RopeConfigTest, YarnOutsideDeepseek) {
  json config = GoldenConfig("qwen3_moe");
  config["rope_scaling"] = {
      {"rope_type", "yarn"}, {"factor", 4.0}, {"original_max_position_embeddings", 1024}};
  ModelConfig c = *Load(config);
  EXPECT_EQ(c.rope.kind, RopeKind::kYarn);
  EXPECT_NEAR(c.rope.attention_factor, 0.1 * std::log(4.0) + 1, 1e-15);
  EXPECT_DOUBLE_EQ(c.attention.scale, 1 / std::sqrt(32.0));
  config["rope_scaling"]["attention_factor"] = 1.25;
  EXPECT_EQ(Load(config)->rope.attention_factor, 1.25);
  config["rope_scaling"]["attention_factor"] = nullptr;
  config["rope_scaling"]["factor"] = nullptr;  // max_position_embeddings / original
  config["rope_scaling"]["truncate"] = false;
  c = *Load(config);
  EXPECT_EQ(c.rope.factor, 4);
  EXPECT_FALSE(c.rope.truncate);
  config["rope_scaling"].erase("original_max_position_embeddings");
  config["rope_scaling"]["factor"] = 2;
  EXPECT_EQ(Load(config)->rope.original_max_positions, 4096);
}

TEST_F(RopeConfigTest, YarnOfDeepseekScalesScoresAndRotation) {
  json config = GoldenConfig("deepseek_v3");
  config["rope_scaling"]["mscale"] = 0.5;
  const ModelConfig c = *Load(config);
  const auto temperature = [](double mscale) { return 0.1 * mscale * std::log(40.0) + 1; };
  EXPECT_NEAR(c.rope.attention_factor, temperature(0.5) / temperature(1.0), 1e-15);
  EXPECT_NEAR(c.attention.scale, temperature(1) * temperature(1) / std::sqrt(48.0), 1e-15);
  config["rope_scaling"].erase("mscale_all_dim");
  EXPECT_NEAR(Load(config)->rope.attention_factor, temperature(1), 1e-15);
  EXPECT_NEAR(Load(config)->attention.scale, 1 / std::sqrt(48.0), 1e-15);
}

TEST_F(RopeConfigTest, RefusesScalesThatNoFloatHolds) {
  for (const char* field :
       {"factor", "beta_fast", "mscale", "mscale_all_dim", "attention_factor"}) {
    json config = GoldenConfig("deepseek_v3");
    config["rope_scaling"][field] = 1e39;
    ExpectRefused(config, absl::StatusCode::kInvalidArgument,
                  std::string("rope_scaling: ") + field + " is 1e+39");
  }
  json config = GoldenConfig("deepseek_v3");
  config["rope_scaling"]["mscale_all_dim"] = 1e38;  // it counts squared
  ExpectRefused(config, absl::StatusCode::kInvalidArgument,
                "mscale_all_dim is 1e+38, wanted a number that scales attention by at most");
  config["rope_scaling"]["mscale_all_dim"] = 1e-30;
  config["rope_scaling"]["mscale"] = 3e38;
  config["rope_scaling"]["factor"] = 1e30;
  ExpectRefused(config, absl::StatusCode::kInvalidArgument,
                "mscale is 3e+38, wanted a number that scales attention by at most");
}

TEST_F(RopeConfigTest, LinearRope) {
  json config = GoldenConfig("mixtral");
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 4}};
  EXPECT_EQ(Load(config)->rope.kind, RopeKind::kLinear);
  EXPECT_EQ(Load(config)->rope.factor, 4);
}

TEST(PortableLogTest, EqualsTheLibraryToTheLastBits) {
  for (double x : {1.0, 2.0, 40.0, 32.0, 1.4142135623730951, 0.7071067811865475, 1e-300, 1e300,
                   0.9999999999999999, 1.0000000000000002, 3.0, 128.0}) {
    EXPECT_NEAR(PortableLog(x), std::log(x), 4e-16 * (std::abs(std::log(x)) + 1e-300)) << x;
  }
  for (int i = 1; i < 10'000; ++i) {
    const double x = i * 0.037;
    ASSERT_NEAR(PortableLog(x), std::log(x), 5e-16 * std::max(1.0, std::abs(std::log(x)))) << x;
  }
}

}  // namespace
}  // namespace conclave::weights

#include "shared/weights/model_config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "shared/weights/rope_config.h"
#include "tests/support/temp_dir.h"
#include "tests/weights/stored_checkpoint.h"

namespace conclave::weights {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

using nlohmann::json;
using testing::GoldenDir;

constexpr FfnKind kDense = FfnKind::kDense;
constexpr FfnKind kMoe = FfnKind::kMoe;

json GoldenConfig(const std::string& model) {
  return json::parse(testing::ReadText(GoldenDir(model) / "config.json"));
}

class ModelConfigTest : public ::testing::Test {
 protected:
  absl::StatusOr<ModelConfig> LoadText(const std::string& text, bool strict = false) {
    testing::WriteText(dir_.path() / "config.json", text);
    warnings_.clear();
    return LoadModelConfig(dir_.path(), {.strict = strict}, &warnings_);
  }
  absl::StatusOr<ModelConfig> Load(const json& config, bool strict = false) {
    return LoadText(config.dump(), strict);
  }
  // The config must be refused with this code, naming the file and holding `message`.
  void ExpectRefused(const json& config, absl::StatusCode code, const std::string& message) {
    const absl::Status status = Load(config).status();
    EXPECT_EQ(status.code(), code) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(message));
    EXPECT_THAT(std::string(status.message()), HasSubstr((dir_.path() / "config.json").string()));
  }
  void ExpectUnsupported(const std::string& model, const std::string& field, const json& value,
                         const std::string& supported) {
    json config = GoldenConfig(model);
    config[field] = value;
    ExpectRefused(config, absl::StatusCode::kUnimplemented, field + " is " + value.dump());
    ExpectRefused(config, absl::StatusCode::kUnimplemented, "supported: " + supported);
  }
  void ExpectInvalid(const std::string& model, const std::string& field, const json& value,
                     const std::string& wanted) {
    json config = GoldenConfig(model);
    config[field] = value;
    ExpectRefused(config, absl::StatusCode::kInvalidArgument, field + " is " + value.dump());
    ExpectRefused(config, absl::StatusCode::kInvalidArgument, "wanted " + wanted);
  }

  testing::TempDir dir_;
  std::vector<std::string> warnings_;
};

TEST_F(ModelConfigTest, DeepseekV2Lite) {
  const ModelConfig c = *Load(GoldenConfig("deepseek_v2_lite"));
  EXPECT_EQ(c.family, ModelFamily::kDeepseekV2);
  EXPECT_EQ(c.vocab_size, 512);
  EXPECT_EQ(c.hidden, 96);
  EXPECT_EQ(c.num_layers, 4);
  EXPECT_EQ(c.num_mtp_layers, 0);
  EXPECT_EQ(c.dense_intermediate, 224);
  EXPECT_EQ(c.norm_epsilon, 1e-6);
  EXPECT_EQ(c.max_positions, 2560);
  EXPECT_FALSE(c.tied_embeddings);
  EXPECT_EQ(c.attention.kind, AttentionKind::kLatent);
  EXPECT_EQ(c.attention.num_heads, 4);
  EXPECT_EQ(c.attention.num_kv_heads, 1);
  EXPECT_EQ(c.attention.q_lora_rank, 0);
  EXPECT_EQ(c.attention.kv_lora_rank, 64);
  EXPECT_EQ(c.attention.qk_nope_head_dim, 32);
  EXPECT_EQ(c.attention.qk_rope_head_dim, 16);
  EXPECT_EQ(c.attention.v_head_dim, 48);
  EXPECT_EQ(c.attention.lora_norm_epsilon, 1e-6);
  const double m = 0.1 * 0.707 * std::log(40.0) + 1;
  EXPECT_NEAR(c.attention.scale, m * m / std::sqrt(48.0), 1e-15);
  EXPECT_EQ(c.rope.kind, RopeKind::kYarn);
  EXPECT_TRUE(c.rope.interleaved);
  EXPECT_EQ(c.rope.theta, 10000);
  EXPECT_EQ(c.rope.factor, 40);
  EXPECT_EQ(c.rope.beta_fast, 32);
  EXPECT_EQ(c.rope.beta_slow, 1);
  EXPECT_EQ(c.rope.original_max_positions, 64);
  EXPECT_TRUE(c.rope.truncate);
  EXPECT_EQ(c.rope.attention_factor, 1);
  EXPECT_EQ(c.moe.num_experts, 12);
  EXPECT_EQ(c.moe.top_k, 3);
  EXPECT_EQ(c.moe.intermediate, 32);
  EXPECT_EQ(c.moe.shared_intermediate, 64);
  EXPECT_FALSE(c.moe.shared_gate);
  EXPECT_EQ(c.moe.scoring, Scoring::kSoftmax);
  EXPECT_EQ(c.moe.groups, ExpertGroups::kNone);
  EXPECT_FALSE(c.moe.normalise);
  EXPECT_EQ(c.moe.scale, 1);
  EXPECT_FALSE(c.moe.correction_bias);
  EXPECT_THAT(c.ffn, ElementsAre(kDense, kMoe, kMoe, kMoe));
  EXPECT_EQ(c.stored_dtype, "bfloat16");
  EXPECT_THAT(warnings_, IsEmpty());
}

TEST_F(ModelConfigTest, DeepseekV2Groups) {
  const ModelConfig c = *Load(GoldenConfig("deepseek_v2_full"));
  EXPECT_EQ(c.attention.q_lora_rank, 64);
  EXPECT_EQ(c.moe.groups, ExpertGroups::kMax);
  EXPECT_EQ(c.moe.num_groups, 4);
  EXPECT_EQ(c.moe.top_groups, 2);
  EXPECT_EQ(c.moe.scale, 16);
}

TEST_F(ModelConfigTest, DeepseekV3) {
  const ModelConfig c = *Load(GoldenConfig("deepseek_v3"));
  EXPECT_EQ(c.moe.scoring, Scoring::kSigmoid);
  EXPECT_EQ(c.moe.groups, ExpertGroups::kTopTwoSum);
  EXPECT_EQ(c.moe.num_groups, 4);
  EXPECT_EQ(c.moe.top_groups, 2);
  EXPECT_TRUE(c.moe.normalise);
  EXPECT_EQ(c.moe.normalise_epsilon, 1e-20);
  EXPECT_EQ(c.moe.scale, 2.5);
  EXPECT_TRUE(c.moe.correction_bias);
  EXPECT_EQ(c.moe.shared_intermediate, 32);
  EXPECT_TRUE(c.rope.interleaved);
  EXPECT_EQ(c.fp8_block, 0);
  const ModelConfig fp8 = *Load(GoldenConfig("deepseek_v3_fp8"));
  EXPECT_EQ(fp8.fp8_block, 128);
  EXPECT_EQ(fp8.stored_dtype, "fp8");
  json config = GoldenConfig("deepseek_v3");
  config["rope_interleave"] = false;
  EXPECT_FALSE(Load(config)->rope.interleaved);
}

TEST_F(ModelConfigTest, Mixtral) {
  const ModelConfig c = *Load(GoldenConfig("mixtral"));
  EXPECT_EQ(c.attention.kind, AttentionKind::kGrouped);
  EXPECT_EQ(c.attention.num_heads, 6);
  EXPECT_EQ(c.attention.num_kv_heads, 2);
  EXPECT_EQ(c.attention.head_dim, 16);
  EXPECT_DOUBLE_EQ(c.attention.scale, 0.25);
  EXPECT_FALSE(c.attention.qkv_bias);
  EXPECT_EQ(c.attention.query_key_norm, QueryKeyNorm::kNone);
  EXPECT_EQ(c.attention.window_tokens, 0);
  EXPECT_EQ(c.rope.kind, RopeKind::kDefault);
  EXPECT_FALSE(c.rope.interleaved);
  EXPECT_EQ(c.rope.theta, 1e6);
  EXPECT_EQ(c.moe.num_experts, 8);
  EXPECT_EQ(c.moe.top_k, 2);
  EXPECT_EQ(c.moe.intermediate, 64);
  EXPECT_EQ(c.moe.shared_intermediate, 0);
  EXPECT_TRUE(c.moe.normalise);
  EXPECT_EQ(c.moe.normalise_epsilon, 0);
  EXPECT_EQ(c.norm_epsilon, 1e-5);
  EXPECT_EQ(c.dense_intermediate, 0);
  EXPECT_THAT(c.ffn, ElementsAre(kMoe, kMoe, kMoe));
}

TEST_F(ModelConfigTest, Qwen2Moe) {
  const ModelConfig c = *Load(GoldenConfig("qwen2_moe"));
  EXPECT_TRUE(c.attention.qkv_bias);
  EXPECT_EQ(c.moe.shared_intermediate, 160);
  EXPECT_TRUE(c.moe.shared_gate);
  EXPECT_FALSE(c.moe.normalise);
  EXPECT_EQ(c.dense_intermediate, 192);
  EXPECT_THAT(c.ffn, ElementsAre(kMoe, kMoe, kDense, kMoe));
}

TEST_F(ModelConfigTest, Qwen3Moe) {
  const ModelConfig c = *Load(GoldenConfig("qwen3_moe"));
  EXPECT_EQ(c.attention.head_dim, 32);
  EXPECT_EQ(c.attention.query_key_norm, QueryKeyNorm::kPerHead);
  EXPECT_FALSE(c.attention.qkv_bias);
  EXPECT_TRUE(c.moe.normalise);
  EXPECT_EQ(c.moe.shared_intermediate, 0);
  EXPECT_EQ(c.dense_intermediate, 0);
}

TEST_F(ModelConfigTest, Olmoe) {
  json config = GoldenConfig("olmoe");
  const ModelConfig c = *Load(config);
  EXPECT_EQ(c.attention.query_key_norm, QueryKeyNorm::kFullWidth);
  EXPECT_EQ(c.attention.clip_qkv, 0);
  EXPECT_EQ(c.attention.head_dim, 32);
  EXPECT_EQ(c.moe.intermediate, 32);
  EXPECT_FALSE(c.moe.normalise);
  config["clip_qkv"] = 8.0;
  config["norm_topk_prob"] = true;
  EXPECT_EQ(Load(config)->attention.clip_qkv, 8);
  EXPECT_TRUE(Load(config)->moe.normalise);
}

TEST_F(ModelConfigTest, BothLayoutsOfEveryModelMeanTheSame) {
  for (const char* model : testing::kGoldenModels) {
    SCOPED_TRACE(model);
    std::vector<std::string> warnings;
    const auto four = LoadModelConfig(GoldenDir(model), {.strict = true}, &warnings);
    const auto five =
        LoadModelConfig(GoldenDir(model) / "transformers5", {.strict = true}, &warnings);
    ASSERT_TRUE(four.ok()) << four.status();
    ASSERT_TRUE(five.ok()) << five.status();
    EXPECT_EQ(NormalisedConfigText(*four), NormalisedConfigText(*five));
    EXPECT_EQ(four->stored_dtype, five->stored_dtype);
    EXPECT_EQ(four->max_positions, five->max_positions);
    EXPECT_THAT(warnings, IsEmpty());
  }
}

TEST_F(ModelConfigTest, EveryChangeThatMattersChangesTheText) {
  struct Change {
    const char* model;
    const char* field;
    json value;
  };
  const Change changes[] = {
      {"mixtral", "sliding_window", 64},
      {"mixtral", "rms_norm_eps", 1e-6},
      {"mixtral", "rope_theta", 5e5},
      {"mixtral", "num_experts_per_tok", 1},
      {"mixtral", "num_key_value_heads", 6},
      {"mixtral", "tie_word_embeddings", true},
      {"mixtral", "head_dim", 32},
      {"qwen2_moe", "mlp_only_layers", {1}},
      {"qwen2_moe", "norm_topk_prob", true},
      {"qwen2_moe", "qkv_bias", false},
      {"olmoe", "clip_qkv", 10},
      {"deepseek_v3", "routed_scaling_factor", 1.5},
      {"deepseek_v3", "topk_group", 3},
      {"deepseek_v3", "norm_topk_prob", false},
      {"deepseek_v3", "rope_interleave", false},
      {"deepseek_v3", "first_k_dense_replace", 2},
  };
  for (const Change& change : changes) {
    SCOPED_TRACE(change.field);
    json config = GoldenConfig(change.model);
    const std::string before = NormalisedConfigText(*Load(config));
    config[change.field] = change.value;
    const auto changed = Load(config);
    ASSERT_TRUE(changed.ok()) << changed.status();
    EXPECT_NE(NormalisedConfigText(*changed), before);
  }
}

TEST_F(ModelConfigTest, RefusesValuesThatChangeTheComputation) {
  for (const char* model : testing::kGoldenModels) {
    SCOPED_TRACE(model);
    ExpectUnsupported(model, "hidden_act", "gelu", "\"silu\", \"swish\"");
    ExpectUnsupported(model, "attention_bias", true, "false");
    ExpectUnsupported(model, "partial_rotary_factor", 0.5, "1");
    ExpectUnsupported(model, "is_encoder_decoder", true, "false");
    ExpectUnsupported(model, "layer_types", {"full_attention", "sliding_attention"},
                      "\"full_attention\" for every layer");
  }
  ExpectUnsupported("qwen2_moe", "use_sliding_window", true, "false");
  ExpectUnsupported("deepseek_v2_lite", "scoring_func", "sigmoid", "\"softmax\"");
  ExpectUnsupported("deepseek_v2_lite", "topk_method", "noaux_tc",
                    "\"greedy\", \"group_limited_greedy\"");
  ExpectUnsupported("deepseek_v2_lite", "norm_topk_prob", true, "false");
  ExpectUnsupported("deepseek_v2_lite", "mlp_bias", true, "false");
  ExpectUnsupported("deepseek_v3", "scoring_func", "softmax", "\"sigmoid\"");
  ExpectUnsupported("deepseek_v3", "topk_method", "greedy", "\"noaux_tc\"");
  ExpectUnsupported("deepseek_v3", "moe_layer_freq", 2, "1");
}

TEST_F(ModelConfigTest, AWindowThatIsNeverReachedIsNone) {
  json config = GoldenConfig("mixtral");
  config["sliding_window"] = 4095;
  EXPECT_EQ(Load(config)->attention.window_tokens, 4095);
  json qwen3 = GoldenConfig("qwen3_moe");
  qwen3["sliding_window"] = 512;
  EXPECT_EQ(Load(qwen3)->attention.window_tokens, 0);
  qwen3["use_sliding_window"] = true;
  EXPECT_EQ(Load(qwen3)->attention.window_tokens, 512);
  config["sliding_window"] = 4096;
  EXPECT_EQ(Load(config)->attention.window_tokens, 0);
}

TEST_F(ModelConfigTest, RefusesRopeTypesByName) {
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

TEST_F(ModelConfigTest, RefusesContradictoryRope) {
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

TEST_F(ModelConfigTest, YarnOutsideDeepseek) {
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

TEST_F(ModelConfigTest, YarnOfDeepseekScalesScoresAndRotation) {
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

TEST_F(ModelConfigTest, LinearRope) {
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

TEST_F(ModelConfigTest, RefusesMistypedAndImpossibleFields) {
  ExpectInvalid("mixtral", "hidden_size", "96", "an integer from 1 to 1048576");
  ExpectInvalid("mixtral", "hidden_size", 0, "an integer from 1");
  ExpectInvalid("mixtral", "hidden_size", -4, "an integer from 1");
  ExpectInvalid("mixtral", "hidden_size", 96.5, "an integer from 1");
  ExpectInvalid("mixtral", "hidden_size", std::numeric_limits<uint64_t>::max(), "an integer");
  ExpectInvalid("mixtral", "hidden_size", nullptr, "an integer");
  ExpectInvalid("mixtral", "num_hidden_layers", 1 << 30, "an integer from 1 to 4096");
  ExpectInvalid("mixtral", "sliding_window", "all", "an integer");
  ExpectInvalid("mixtral", "vocab_size", json::array({1}), "an integer");
  ExpectInvalid("mixtral", "rms_norm_eps", 0, "a number above 0");
  ExpectInvalid("mixtral", "rms_norm_eps", "small", "a number above 0");
  ExpectInvalid("mixtral", "rope_theta", -1, "a number above 0");
  ExpectInvalid("mixtral", "tie_word_embeddings", 1, "true or false");
  ExpectInvalid("mixtral", "hidden_act", 1, "a string");
  ExpectInvalid("mixtral", "num_experts_per_tok", 9, "an integer from 1 to 8");
  ExpectInvalid("mixtral", "num_key_value_heads", 4, "a divisor of num_attention_heads, 6");
  ExpectInvalid("mixtral", "head_dim", 15, "an even number, not 15");
  ExpectInvalid("mixtral", "num_experts", 9, "the same as num_local_experts, 8");
  ExpectInvalid("qwen2_moe", "mlp_only_layers", json::array({4}), "layers from 0 to 3");
  ExpectInvalid("qwen2_moe", "mlp_only_layers", "all", "a list of integers");
  ExpectInvalid("qwen2_moe", "decoder_sparse_step", 0, "an integer from 1");
  ExpectInvalid("olmoe", "head_dim", 16, "hidden_size / num_attention_heads");
  ExpectInvalid("deepseek_v3", "q_lora_rank", 0, "an integer from 1");
  ExpectInvalid("deepseek_v3", "num_key_value_heads", 1, "num_attention_heads, 5");
  ExpectInvalid("deepseek_v3", "qk_rope_head_dim", 15, "an even number");
  ExpectInvalid("deepseek_v3", "n_group", 3, "a divisor of n_routed_experts, 16");
  ExpectInvalid("deepseek_v3", "n_group", nullptr, "an integer");
  ExpectInvalid("deepseek_v3", "topk_group", 5, "an integer from 1 to 4");
  ExpectInvalid("deepseek_v3", "first_k_dense_replace", 3, "an integer from 0 to 2");
  json config = GoldenConfig("mixtral");
  config["num_hidden_layers"] = 4096;
  config["num_local_experts"] = 65535;
  ExpectRefused(config, absl::StatusCode::kInvalidArgument, "at most 262144 experts in all layers");
  config = GoldenConfig("mixtral");
  config["num_attention_heads"] = config["num_key_value_heads"] = 7;
  ExpectRefused(config, absl::StatusCode::kInvalidArgument,
                "num_attention_heads is 7, wanted a divisor of hidden_size, 96");
  config = GoldenConfig("deepseek_v3");
  config["n_group"] = 16;
  ExpectRefused(config, absl::StatusCode::kInvalidArgument, "groups of at least 2 experts");
  config["n_group"] = 8;
  config["topk_group"] = 1;
  ExpectRefused(config, absl::StatusCode::kInvalidArgument,
                "num_experts_per_tok is 4, wanted at most 2");
}

TEST_F(ModelConfigTest, NamesMissingFields) {
  for (const char* field :
       {"hidden_size", "vocab_size", "num_hidden_layers", "moe_intermediate_size",
        "num_attention_heads", "max_position_embeddings", "kv_lora_rank", "n_routed_experts",
        "num_experts_per_tok"}) {
    json config = GoldenConfig("deepseek_v3");
    config.erase(field);
    ExpectRefused(config, absl::StatusCode::kInvalidArgument, std::string(field) + " is missing");
  }
  json config = GoldenConfig("deepseek_v3");
  config.erase("intermediate_size");
  ExpectRefused(config, absl::StatusCode::kInvalidArgument, "some layers are dense");
  config = GoldenConfig("deepseek_v3");
  config.erase("model_type");
  ExpectRefused(config, absl::StatusCode::kInvalidArgument, "model_type is missing");
}

TEST_F(ModelConfigTest, FillsInTheFamiliesDefaults) {
  // Qwen1.5-MoE's own config has no qkv_bias, mlp_only_layers or rope_scaling.
  json config = GoldenConfig("qwen2_moe");
  for (const char* field : {"qkv_bias", "mlp_only_layers", "decoder_sparse_step", "rms_norm_eps",
                            "tie_word_embeddings", "norm_topk_prob", "num_key_value_heads"}) {
    config.erase(field);
  }
  const ModelConfig c = *Load(config, /*strict=*/true);
  EXPECT_TRUE(c.attention.qkv_bias);
  EXPECT_EQ(c.attention.num_kv_heads, 6);
  EXPECT_THAT(c.ffn, ElementsAre(kMoe, kMoe, kMoe, kMoe));
  EXPECT_EQ(c.norm_epsilon, 1e-6);
  EXPECT_FALSE(c.moe.normalise);
  config = GoldenConfig("mixtral");
  config.erase("rope_theta");
  EXPECT_EQ(Load(config)->rope.theta, 1e6);
}

TEST_F(ModelConfigTest, CountsDenseLayersByStep) {
  json config = GoldenConfig("qwen3_moe");
  config["num_hidden_layers"] = 6;
  config["decoder_sparse_step"] = 2;
  config["mlp_only_layers"] = {3};
  EXPECT_THAT(Load(config)->ffn, ElementsAre(kDense, kMoe, kDense, kDense, kDense, kMoe));
  config["decoder_sparse_step"] = 7;
  ExpectRefused(config, absl::StatusCode::kUnimplemented, "no layer has experts");
}

TEST_F(ModelConfigTest, UnknownFieldsWarnOnceOrAreRefused) {
  json config = GoldenConfig("mixtral");
  config["rope_tetha"] = 5;
  config["my_own_note"] = "x";
  config["rope_scaling"] = {{"type", "linear"}, {"factor", 2}, {"factr", 3}};
  ASSERT_TRUE(Load(config).ok());
  EXPECT_THAT(warnings_,
              ::testing::UnorderedElementsAre(
                  HasSubstr("rope_tetha is an unknown field and is ignored (did you mean "
                            "rope_theta?)"),
                  AllOf(HasSubstr("my_own_note is an unknown field"),
                        ::testing::Not(HasSubstr("did you mean"))),
                  HasSubstr("rope_scaling: factr is an unknown field and is ignored (did "
                            "you mean factor?)")));
  const absl::Status status = Load(config, /*strict=*/true).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              AllOf(HasSubstr("is an unknown field"), HasSubstr("--strict-config")));
}

TEST_F(ModelConfigTest, RefusesFamiliesWithARemedy) {
  const auto refusal = [&](const char* model_type) {
    return std::string(Load({{"model_type", model_type}}).status().message());
  };
  for (const char* dense : {"llama", "qwen2", "qwen3", "mistral", "gemma3_text", "phi3"}) {
    EXPECT_THAT(refusal(dense), AllOf(HasSubstr("a dense model"), HasSubstr("docs/models.md")));
  }
  EXPECT_THAT(refusal("qwen3_next"), HasSubstr("not supported yet"));
  EXPECT_THAT(refusal("kimi_k2"), HasSubstr("not supported yet"));
  EXPECT_THAT(refusal("mixtrall"), HasSubstr("unknown family (did you mean mixtral?)"));
  EXPECT_THAT(refusal("something"), HasSubstr("supported are deepseek_v2, deepseek_v3, mixtral, "
                                              "qwen2_moe, qwen3_moe, olmoe"));
  EXPECT_EQ(Load({{"model_type", "llama"}}).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(Load({{"model_type", 3}}).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST(RefusedGoldensTest, OtherMoeFamiliesAreNotSupportedYet) {
  for (const char* model :
       {"gpt_oss", "glm4_moe", "gpt_oss/transformers5", "glm4_moe/transformers5"}) {
    const absl::Status status = LoadModelConfig(GoldenDir(model), {}, nullptr).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kUnimplemented);
    EXPECT_THAT(std::string(status.message()), HasSubstr("not supported yet; supported are"));
  }
}

TEST_F(ModelConfigTest, RefusesOtherQuantisations) {
  for (const char* method : {"awq", "gptq", "mxfp4", "bitsandbytes", "compressed-tensors", ""}) {
    json config = GoldenConfig("qwen3_moe");
    config["quantization_config"] = {{"quant_method", method}, {"bits", 4}};
    ExpectRefused(config, absl::StatusCode::kUnimplemented,
                  std::string("quant_method \"") + method + "\"");
    ExpectRefused(config, absl::StatusCode::kUnimplemented, "use the original checkpoint");
  }
  json config = GoldenConfig("deepseek_v3_fp8");
  config["quantization_config"]["weight_block_size"] = {64, 64};
  ExpectRefused(config, absl::StatusCode::kUnimplemented,
                "weight_block_size is [64,64], which changes the computation");
  config["quantization_config"].erase("weight_block_size");
  ExpectRefused(config, absl::StatusCode::kUnimplemented, "weight_block_size is missing");
  config = GoldenConfig("deepseek_v3_fp8");
  config["quantization_config"]["fmt"] = "e5m2";
  ExpectRefused(config, absl::StatusCode::kUnimplemented, "supported: \"e4m3\"");
  config["quantization_config"] = "fp8";
  ExpectRefused(config, absl::StatusCode::kInvalidArgument, "an object or null");
}

TEST_F(ModelConfigTest, RefusesFilesThatAreNoConfig) {
  for (const char* text : {"", "{", "[]", "null", "\"x\"", "{\"a\":1e999}", "\xff\xfe"}) {
    const absl::Status status = LoadText(text).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(status.message()), HasSubstr("is not a JSON object"));
  }
  EXPECT_THAT(std::string(LoadText(R"({"a":{"b":1,"b":2}})").status().message()),
              HasSubstr("has the key b twice"));
  EXPECT_FALSE(LoadText(std::string("{}\0{", 4)).ok());
  std::string deep;
  for (int i = 0; i < 100'000; ++i) deep += "[";
  EXPECT_FALSE(LoadText(deep).ok());
}

TEST_F(ModelConfigTest, SaysWhatAFolderWithoutConfigHolds) {
  const absl::Status none = LoadModelConfig(dir_.path(), {}, nullptr).status();
  EXPECT_EQ(none.code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(none.message()), HasSubstr("has no config.json"));
  testing::WriteText(dir_.path() / "model.gguf", "GGUF");
  const absl::Status gguf = LoadModelConfig(dir_.path(), {}, nullptr).status();
  EXPECT_EQ(gguf.code(), absl::StatusCode::kUnimplemented);
  EXPECT_THAT(std::string(gguf.message()), HasSubstr("is a GGUF file"));
  EXPECT_EQ(LoadModelConfig(dir_.path() / "none", {}, nullptr).status().code(),
            absl::StatusCode::kNotFound);
}

}  // namespace
}  // namespace conclave::weights

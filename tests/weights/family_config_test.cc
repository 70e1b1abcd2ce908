#include "shared/weights/family_config.h"

#include <cmath>

#include "tests/weights/config_fixture.h"

namespace conclave::weights {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

using nlohmann::json;
using testing::GoldenDir;

constexpr FfnKind kDense = FfnKind::kDense;
constexpr FfnKind kMoe = FfnKind::kMoe;

using FamilyConfigTest = ModelConfigTest;

TEST_F(FamilyConfigTest, DeepseekV2Lite) {
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

TEST_F(FamilyConfigTest, DeepseekV2Groups) {
  const ModelConfig c = *Load(GoldenConfig("deepseek_v2_full"));
  EXPECT_EQ(c.attention.q_lora_rank, 64);
  EXPECT_EQ(c.moe.groups, ExpertGroups::kMax);
  EXPECT_EQ(c.moe.num_groups, 4);
  EXPECT_EQ(c.moe.top_groups, 2);
  EXPECT_EQ(c.moe.scale, 16);
}

TEST_F(FamilyConfigTest, DeepseekV3) {
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

TEST_F(FamilyConfigTest, Mixtral) {
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

TEST_F(FamilyConfigTest, Qwen2Moe) {
  const ModelConfig c = *Load(GoldenConfig("qwen2_moe"));
  EXPECT_TRUE(c.attention.qkv_bias);
  EXPECT_EQ(c.moe.shared_intermediate, 160);
  EXPECT_TRUE(c.moe.shared_gate);
  EXPECT_FALSE(c.moe.normalise);
  EXPECT_EQ(c.dense_intermediate, 192);
  EXPECT_THAT(c.ffn, ElementsAre(kMoe, kMoe, kDense, kMoe));
}

TEST_F(FamilyConfigTest, Qwen3Moe) {
  const ModelConfig c = *Load(GoldenConfig("qwen3_moe"));
  EXPECT_EQ(c.attention.head_dim, 32);
  EXPECT_EQ(c.attention.query_key_norm, QueryKeyNorm::kPerHead);
  EXPECT_FALSE(c.attention.qkv_bias);
  EXPECT_TRUE(c.moe.normalise);
  EXPECT_EQ(c.moe.shared_intermediate, 0);
  EXPECT_EQ(c.dense_intermediate, 0);
}

TEST_F(FamilyConfigTest, Olmoe) {
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

TEST_F(FamilyConfigTest, BothLayoutsOfEveryModelMeanTheSame) {
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

TEST_F(FamilyConfigTest, FillsInTheFamiliesDefaults) {
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

TEST_F(FamilyConfigTest, CountsDenseLayersByStep) {
  json config = GoldenConfig("qwen3_moe");
  config["num_hidden_layers"] = 6;
  config["decoder_sparse_step"] = 2;
  config["mlp_only_layers"] = {3};
  EXPECT_THAT(Load(config)->ffn, ElementsAre(kDense, kMoe, kDense, kDense, kDense, kMoe));
  config["decoder_sparse_step"] = 7;
  ExpectRefused(config, absl::StatusCode::kUnimplemented, "no layer has experts");
}

}  // namespace
}  // namespace conclave::weights

#include "shared/weights/tensor_table.h"

#include <gtest/gtest.h>

#include <set>

#include "tests/support/temp_dir.h"
#include "tests/weights/stored_checkpoint.h"

namespace conclave::weights {
namespace {

using nlohmann::json;

int64_t CountParameters(const ModelConfig& config) {
  int64_t parameters = 0;
  for (const TensorSpec& spec : TensorTable(config)) {
    int64_t elements = 1;
    for (int64_t dimension : spec.shape) elements *= dimension;
    parameters += elements;
  }
  return parameters;
}

// The dimensions of published models, on top of the golden config of their family, and the number
// of parameters that their model cards state.
struct PublishedModel {
  const char* name;
  const char* golden;
  json dimensions;
  double billions;
};

std::vector<PublishedModel> PublishedModels() {
  return {
      {"DeepSeek-V2-Lite",
       "deepseek_v2_lite",
       {{"vocab_size", 102400},
        {"hidden_size", 2048},
        {"num_hidden_layers", 27},
        {"intermediate_size", 10944},
        {"moe_intermediate_size", 1408},
        {"n_routed_experts", 64},
        {"num_experts_per_tok", 6},
        {"num_attention_heads", 16},
        {"num_key_value_heads", 16},
        {"kv_lora_rank", 512},
        {"qk_nope_head_dim", 128},
        {"qk_rope_head_dim", 64},
        {"v_head_dim", 128}},
       15.7},
      {"DeepSeek-V2",
       "deepseek_v2_full",
       {{"vocab_size", 102400},
        {"hidden_size", 5120},
        {"num_hidden_layers", 60},
        {"intermediate_size", 12288},
        {"moe_intermediate_size", 1536},
        {"n_routed_experts", 160},
        {"num_experts_per_tok", 6},
        {"n_group", 8},
        {"topk_group", 3},
        {"num_attention_heads", 128},
        {"num_key_value_heads", 128},
        {"q_lora_rank", 1536},
        {"kv_lora_rank", 512},
        {"qk_nope_head_dim", 128},
        {"qk_rope_head_dim", 64},
        {"v_head_dim", 128}},
       235.7},
      {"DeepSeek-V3",
       "deepseek_v3_fp8",
       {{"vocab_size", 129280},
        {"hidden_size", 7168},
        {"num_hidden_layers", 61},
        {"first_k_dense_replace", 3},
        {"intermediate_size", 18432},
        {"moe_intermediate_size", 2048},
        {"n_routed_experts", 256},
        {"num_experts_per_tok", 8},
        {"n_group", 8},
        {"topk_group", 4},
        {"num_attention_heads", 128},
        {"num_key_value_heads", 128},
        {"q_lora_rank", 1536},
        {"kv_lora_rank", 512},
        {"qk_nope_head_dim", 128},
        {"qk_rope_head_dim", 64},
        {"v_head_dim", 128},
        {"num_nextn_predict_layers", 1}},
       671.0},
      {"Mixtral-8x7B",
       "mixtral",
       {{"vocab_size", 32000},
        {"hidden_size", 4096},
        {"num_hidden_layers", 32},
        {"intermediate_size", 14336},
        {"num_attention_heads", 32},
        {"num_key_value_heads", 8}},
       46.7},
      {"Qwen1.5-MoE-A2.7B",
       "qwen2_moe",
       {{"vocab_size", 151936},
        {"hidden_size", 2048},
        {"num_hidden_layers", 24},
        {"mlp_only_layers", json::array()},
        {"moe_intermediate_size", 1408},
        {"shared_expert_intermediate_size", 5632},
        {"num_experts", 60},
        {"num_attention_heads", 16},
        {"num_key_value_heads", 16}},
       14.3},
      {"Qwen3-30B-A3B",
       "qwen3_moe",
       {{"vocab_size", 151936},
        {"hidden_size", 2048},
        {"num_hidden_layers", 48},
        {"moe_intermediate_size", 768},
        {"num_experts", 128},
        {"num_experts_per_tok", 8},
        {"num_attention_heads", 32},
        {"num_key_value_heads", 4},
        {"head_dim", 128}},
       30.5},
      {"OLMoE-1B-7B",
       "olmoe",
       {{"vocab_size", 50304},
        {"hidden_size", 2048},
        {"num_hidden_layers", 16},
        {"intermediate_size", 1024},
        {"num_experts", 64},
        {"num_experts_per_tok", 8},
        {"num_attention_heads", 16},
        {"num_key_value_heads", 16}},
       6.9},
  };
}

TEST(TensorTableTest, HasAsManyParametersAsTheModelCardsSay) {
  testing::TempDir dir;
  for (const PublishedModel& model : PublishedModels()) {
    SCOPED_TRACE(model.name);
    json config = json::parse(testing::ReadText(testing::GoldenDir(model.golden) / "config.json"));
    config.update(model.dimensions);
    testing::WriteText(dir.path() / "config.json", config.dump());
    const auto loaded = LoadModelConfig(dir.path(), {.strict = true}, nullptr);
    ASSERT_TRUE(loaded.ok()) << loaded.status();
    EXPECT_NEAR(static_cast<double>(CountParameters(*loaded)) / 1e9, model.billions, 0.05);
  }
}

TEST(TensorTableTest, NamesEachTensorOnce) {
  for (const char* model : testing::kGoldenModels) {
    const auto config = LoadModelConfig(testing::GoldenDir(model), {}, nullptr);
    ASSERT_TRUE(config.ok()) << config.status();
    std::set<std::string> names;
    for (const TensorSpec& spec : TensorTable(*config)) {
      EXPECT_TRUE(names.insert(spec.name).second) << spec.name;
      EXPECT_FALSE(spec.stored_names.empty()) << spec.name;
    }
    EXPECT_TRUE(names.contains(ExpertTensorName(1, 0, "down_proj")));
    EXPECT_TRUE(names.contains(LayerTensorName(0, "self_attn.o_proj.weight")));
  }
}

}  // namespace
}  // namespace conclave::weights

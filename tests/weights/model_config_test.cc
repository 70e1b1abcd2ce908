#include "shared/weights/model_config.h"

#include <cmath>
#include <limits>

#include "tests/weights/config_fixture.h"

namespace conclave::weights {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

using nlohmann::json;
using testing::GoldenDir;

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
  json many = GoldenConfig("mixtral");
  many["num_local_experts"] = 100;
  many["num_experts_per_tok"] = 65;
  ExpectRefused(many, absl::StatusCode::kUnimplemented, "num_experts_per_tok is 65");
  ExpectRefused(many, absl::StatusCode::kUnimplemented, "at most 64");
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
  // Zero would hide a token from itself; without a number each program has its own window.
  ExpectInvalid("mixtral", "sliding_window", 0, "an integer from 1");
  qwen3.erase("sliding_window");
  ExpectRefused(qwen3, absl::StatusCode::kInvalidArgument,
                "sliding_window is missing, wanted a number of tokens, as use_sliding_window is");
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
  ExpectInvalid("mixtral", "max_position_embeddings", 1, "an integer from 2");
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

TEST_F(ModelConfigTest, RefusesNumbersThatNoFloatHolds) {
  for (const double value : {1e39, 1e300, 1e-50}) {
    const std::string wanted = "a number above 0 that a 32-bit float can hold";
    ExpectInvalid("mixtral", "rms_norm_eps", value, wanted);
    ExpectInvalid("mixtral", "rope_theta", value, wanted);
    ExpectInvalid("olmoe", "clip_qkv", value, wanted);
    ExpectInvalid("deepseek_v3", "routed_scaling_factor", value, wanted);
    ExpectInvalid("deepseek_v2_lite", "routed_scaling_factor", value, wanted);
  }
  json config = GoldenConfig("olmoe");
  config["clip_qkv"] = 3e38;
  EXPECT_TRUE(Load(config).ok());
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
  for (const char* method : {"mxfp4", "bitsandbytes", "eetq", "hqq", ""}) {
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

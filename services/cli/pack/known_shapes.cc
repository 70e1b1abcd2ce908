#include "services/cli/pack/known_shapes.h"

namespace conclave::cli {
namespace {

struct Shape {
  std::string_view name;
  std::string_view config;
};

constexpr Shape kShapes[] = {
    {"deepseek-v2-lite", R"({
  "model_type": "deepseek_v2", "torch_dtype": "bfloat16",
  "vocab_size": 102400, "hidden_size": 2048, "num_hidden_layers": 27,
  "intermediate_size": 10944, "first_k_dense_replace": 1, "moe_layer_freq": 1,
  "num_attention_heads": 16, "num_key_value_heads": 16, "q_lora_rank": null, "kv_lora_rank": 512,
  "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128,
  "n_routed_experts": 64, "n_shared_experts": 2, "num_experts_per_tok": 6,
  "moe_intermediate_size": 1408, "scoring_func": "softmax", "topk_method": "greedy",
  "n_group": 1, "topk_group": 1, "norm_topk_prob": false, "routed_scaling_factor": 1.0,
  "max_position_embeddings": 163840, "rms_norm_eps": 1e-06, "rope_theta": 10000,
  "rope_scaling": {"type": "yarn", "factor": 40, "original_max_position_embeddings": 4096,
                   "beta_fast": 32, "beta_slow": 1, "mscale": 0.707, "mscale_all_dim": 0.707},
  "hidden_act": "silu", "attention_bias": false, "tie_word_embeddings": false
}
)"},
    {"qwen3-30b-a3b", R"({
  "model_type": "qwen3_moe", "torch_dtype": "bfloat16",
  "vocab_size": 151936, "hidden_size": 2048, "num_hidden_layers": 48, "intermediate_size": 6144,
  "num_attention_heads": 32, "num_key_value_heads": 4, "head_dim": 128,
  "num_experts": 128, "num_experts_per_tok": 8, "moe_intermediate_size": 768,
  "norm_topk_prob": true, "decoder_sparse_step": 1, "mlp_only_layers": [],
  "max_position_embeddings": 40960, "rms_norm_eps": 1e-06, "rope_theta": 1000000,
  "hidden_act": "silu", "attention_bias": false, "tie_word_embeddings": false
}
)"},
};

}  // namespace

std::vector<std::string_view> KnownShapes() {
  std::vector<std::string_view> names;
  for (const Shape& shape : kShapes) names.push_back(shape.name);
  return names;
}

std::string_view KnownShape(std::string_view name) {
  for (const Shape& shape : kShapes) {
    if (shape.name == name) return shape.config;
  }
  return {};
}

}  // namespace conclave::cli

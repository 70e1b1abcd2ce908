#include "services/engine/model_size.h"

namespace conclave::engine {
namespace {

int64_t AttentionParameters(const weights::ModelConfig& config) {
  const weights::AttentionConfig& a = config.attention;
  const int64_t hidden = config.hidden;
  if (a.kind == weights::AttentionKind::kGrouped) {
    return hidden * a.head_dim * (2 * int64_t{a.num_heads} + 2 * int64_t{a.num_kv_heads});
  }
  const int64_t query_width = int64_t{a.num_heads} * (a.qk_nope_head_dim + a.qk_rope_head_dim);
  const int64_t query =
      a.q_lora_rank > 0 ? a.q_lora_rank * (hidden + query_width) : hidden * query_width;
  const int64_t key_value =
      hidden * (a.kv_lora_rank + a.qk_rope_head_dim) +
      int64_t{a.num_heads} * a.kv_lora_rank * (a.qk_nope_head_dim + a.v_head_dim);
  return query + key_value + int64_t{a.num_heads} * a.v_head_dim * hidden;
}

int64_t AttentionWidth(const weights::AttentionConfig& a) {
  if (a.kind == weights::AttentionKind::kGrouped) return 2 * int64_t{a.num_heads} * a.head_dim;
  return int64_t{a.num_heads} * (2 * int64_t{a.kv_lora_rank} + a.qk_rope_head_dim);
}

}  // namespace

ModelSize SizeOf(const weights::ModelConfig& config) {
  const int64_t hidden = config.hidden;
  const int64_t head = int64_t{config.vocab_size} * hidden;
  ModelSize size;
  size.expert_parameters = 3 * hidden * config.moe.intermediate;
  size.engine_parameters = 2 * head;  // the embedding and the LM head
  size.active_parameters = head;
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    int64_t dense = AttentionParameters(config);
    if (config.IsMoe(layer)) {
      dense += 3 * hidden * config.moe.shared_intermediate + hidden * config.moe.num_experts;
      size.num_experts += config.moe.num_experts;
      size.active_parameters += config.moe.top_k * size.expert_parameters;
    } else {
      dense += 3 * hidden * config.dense_intermediate;
    }
    size.engine_parameters += dense;
    size.active_parameters += dense;
    size.attention_width += AttentionWidth(config.attention);
  }
  return size;
}

int64_t WeightBytes(const ModelSize& size, kernels::NumericsClass numerics, bool with_experts) {
  const int64_t element = numerics == kernels::NumericsClass::kF32 ? 4 : 2;
  return element *
         (size.engine_parameters + (with_experts ? size.num_experts * size.expert_parameters : 0));
}

}  // namespace conclave::engine

#include "shared/model/token_cost.h"

namespace conclave::model {
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

TokenCost TokenCostOf(const weights::ModelConfig& config) {
  const int64_t hidden = config.hidden;
  TokenCost cost;
  cost.parameters = int64_t{config.vocab_size} * hidden;  // the LM head
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    cost.parameters += AttentionParameters(config);
    cost.attention_width += AttentionWidth(config.attention);
    if (config.IsMoe(layer)) {
      cost.parameters += hidden * config.moe.num_experts;
      cost.parameters += 3 * hidden * config.moe.shared_intermediate;
      cost.parameters += 3 * hidden * config.moe.intermediate * config.moe.top_k;
    } else {
      cost.parameters += 3 * hidden * config.dense_intermediate;
    }
  }
  return cost;
}

}  // namespace conclave::model

#include "services/engine/layers/attention_layer.h"

#include "services/engine/layers/grouped_attention.h"
#include "services/engine/layers/latent_attention.h"

namespace conclave::engine {

kernels::AttentionParameters AttentionParametersOf(const weights::ModelConfig& config,
                                                   const kernels::KvShape& shape) {
  return {.kv = shape,
          .num_heads = config.attention.num_heads,
          .scale = static_cast<float>(config.attention.scale),
          .window_tokens = config.attention.window_tokens};
}

std::unique_ptr<AttentionLayer> MakeAttentionLayer(const weights::ModelConfig& config,
                                                   const kernels::KvShape& shape,
                                                   const kernels::RopeTable& rope,
                                                   kernels::Context& context) {
  if (config.attention.kind == weights::AttentionKind::kLatent) {
    return std::make_unique<LatentAttention>(config, shape, rope, context);
  }
  return std::make_unique<GroupedAttention>(config, shape, rope, context);
}

}  // namespace conclave::engine

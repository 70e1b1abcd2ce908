// Multi-head latent attention (DeepSeek-V2 and V3), absorbed: queries are brought into the latent
// space, the cache holds the normalised latent and the rotated key, and there is no other path
// (docs/numerics.md, "Attention").
#pragma once

#include "services/engine/layers/attention_layer.h"
#include "services/engine/layers/row_buffer.h"

namespace conclave::engine {

class LatentAttention final : public AttentionLayer {
 public:
  // Borrows all but `shape`.
  LatentAttention(const weights::ModelConfig& config, const kernels::KvShape& shape,
                  const kernels::RopeTable& rope, kernels::Context& context);

  void Run(const weights::LayerWeights& weights, const kernels::KvLayer& kv, const StepRows& rows,
           kernels::MatrixView<const float> input, kernels::MatrixView<float> output) override;

 private:
  // [c, k_r] of every row into the cache.
  void WriteCache(const weights::LatentAttentionWeights& weights, const kernels::KvLayer& kv,
                  const StepRows& rows, kernels::MatrixView<const float> input);
  // Every head's [W_UK q_nope, rope(q_rope)].
  kernels::MatrixView<const float> Queries(const weights::LatentAttentionWeights& weights,
                                           const StepRows& rows,
                                           kernels::MatrixView<const float> input);

  const weights::ModelConfig& config_;
  const kernels::RopeTable& rope_;
  kernels::Context& context_;
  const kernels::AttentionParameters parameters_;

  RowBuffer<float> compressed_;  // [num_rows, q_lora_rank]
  RowBuffer<float> q_;           // [num_rows, heads * (nope + rope)]
  RowBuffer<float> queries_;     // [num_rows, heads * (kv_lora_rank + rope)]
  RowBuffer<float> keys_;        // [num_rows, kv_lora_rank + rope]
  RowBuffer<float> latents_;     // [num_rows, heads * kv_lora_rank]: what attention gives
  RowBuffer<float> values_;      // [num_rows, heads * v_head_dim]
};

}  // namespace conclave::engine

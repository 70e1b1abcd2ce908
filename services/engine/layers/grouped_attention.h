// Grouped-query attention (Mixtral, Qwen2-MoE, Qwen3-MoE, OLMoE): biases, query and key norms,
// clamping and rope where the family has them, in the order of docs/numerics.md ("A layer").
#pragma once

#include "services/engine/layers/attention_layer.h"
#include "services/engine/layers/row_buffer.h"

namespace conclave::engine {

class GroupedAttention final : public AttentionLayer {
 public:
  // Borrows all but `shape`.
  GroupedAttention(const weights::ModelConfig& config, const kernels::KvShape& shape,
                   const kernels::RopeTable& rope, kernels::Context& context);

  void Run(const weights::LayerWeights& weights, const kernels::KvLayer& kv, const StepRows& rows,
           kernels::MatrixView<const float> input, kernels::MatrixView<float> output) override;

 private:
  // One of q, k, v: the projection and its bias.
  void Project(const kernels::PackedMatrix& weight, const std::vector<float>& bias,
               kernels::MatrixView<const float> input, kernels::MatrixView<float> output);
  // Norm, clamp and rope of q or k; `heads` is the number of its heads.
  void NormAndRotate(const std::vector<float>& norm, int64_t heads, const StepRows& rows,
                     kernels::MatrixView<float> projected);
  void Clamp(kernels::MatrixView<float> rows) const;

  const weights::ModelConfig& config_;
  const kernels::RopeTable& rope_;
  kernels::Context& context_;
  const kernels::AttentionParameters parameters_;

  RowBuffer<float> q_;         // [num_rows, heads * head_dim]
  RowBuffer<float> k_;         // [num_rows, kv_heads * head_dim]
  RowBuffer<float> v_;         // [num_rows, kv_heads * head_dim]
  RowBuffer<float> attended_;  // [num_rows, heads * head_dim]
};

}  // namespace conclave::engine

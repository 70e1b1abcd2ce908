#include "services/engine/layers/latent_attention.h"

#include <algorithm>

#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "services/engine/layers/rope_setup.h"

namespace conclave::engine {

using kernels::MatrixView;

LatentAttention::LatentAttention(const weights::ModelConfig& config, const kernels::KvShape& shape,
                                 const kernels::RopeTable& rope, kernels::Context& context)
    : config_(config),
      rope_(rope),
      context_(context),
      parameters_(AttentionParametersOf(config, shape)) {}

void LatentAttention::Run(const weights::LayerWeights& weights, const kernels::KvLayer& kv,
                          const StepRows& rows, MatrixView<const float> input,
                          MatrixView<float> output) {
  const weights::LatentAttentionWeights& w = *weights.latent;
  const weights::AttentionConfig& attention = config_.attention;
  const int64_t num_heads = attention.num_heads;

  WriteCache(w, kv, rows, input);
  const auto queries = Queries(w, rows, input);
  const auto latents = latents_.Shape(rows.num_rows(), num_heads * attention.kv_lora_rank);
  const auto values = values_.Shape(rows.num_rows(), num_heads * attention.v_head_dim);
  kernels::Attention(parameters_, kv, rows.sequences(), queries, latents, context_);
  kernels::HeadMatmul(w.v_absorbed, ReadOnly(latents), attention.kv_lora_rank, values,
                      attention.v_head_dim, context_);
  kernels::Matmul(w.o, ReadOnly(values), output, context_);
}

void LatentAttention::WriteCache(const weights::LatentAttentionWeights& weights,
                                 const kernels::KvLayer& kv, const StepRows& rows,
                                 MatrixView<const float> input) {
  const int64_t rank = config_.attention.kv_lora_rank;
  const int64_t rope_dim = config_.attention.qk_rope_head_dim;
  const auto keys = keys_.Shape(rows.num_rows(), rank + rope_dim);
  kernels::Matmul(weights.kv_a, input, keys, context_);

  const MatrixView<float> latent{keys.data, keys.rows, rank, keys.stride};
  kernels::RmsNorm(ReadOnly(latent), weights.kv_a_norm.data(),
                   static_cast<float>(config_.attention.lora_norm_epsilon), latent, context_);
  const MatrixView<float> rotated{keys.data + rank, keys.rows, rope_dim, keys.stride};
  kernels::ApplyRope(rope_, RopePairingOf(config_.rope), rows.positions(), 1, rope_dim, rotated,
                     context_);
  kernels::WriteKv(parameters_.kv, kv, rows.sequences(), ReadOnly(keys), {}, context_);
}

MatrixView<const float> LatentAttention::Queries(const weights::LatentAttentionWeights& weights,
                                                 const StepRows& rows,
                                                 MatrixView<const float> input) {
  const weights::AttentionConfig& attention = config_.attention;
  const int64_t num_rows = rows.num_rows();
  const int64_t num_heads = attention.num_heads;
  const int64_t nope = attention.qk_nope_head_dim;
  const int64_t rope_dim = attention.qk_rope_head_dim;
  const int64_t rank = attention.kv_lora_rank;

  const auto q = q_.Shape(num_rows, num_heads * (nope + rope_dim));
  if (weights.q_a.empty()) {
    kernels::Matmul(weights.q_b, input, q, context_);
  } else {
    const auto compressed = compressed_.Shape(num_rows, attention.q_lora_rank);
    kernels::Matmul(weights.q_a, input, compressed, context_);
    kernels::RmsNorm(ReadOnly(compressed), weights.q_a_norm.data(),
                     static_cast<float>(attention.lora_norm_epsilon), compressed, context_);
    kernels::Matmul(weights.q_b, ReadOnly(compressed), q, context_);
  }

  const int64_t query_dim = rank + rope_dim;
  const auto queries = queries_.Shape(num_rows, num_heads * query_dim);
  kernels::HeadMatmul(weights.k_absorbed, ReadOnly(q), nope + rope_dim, queries, query_dim,
                      context_);
  for (int64_t row = 0; row < num_rows; ++row) {
    for (int64_t head = 0; head < num_heads; ++head) {
      const float* from = q.Row(row) + head * (nope + rope_dim) + nope;
      std::copy(from, from + rope_dim, queries.Row(row) + head * query_dim + rank);
    }
  }
  const MatrixView<float> rotated{queries.data + rank, num_rows, queries.cols - rank,
                                  queries.stride};
  kernels::ApplyRope(rope_, RopePairingOf(config_.rope), rows.positions(), num_heads, query_dim,
                     rotated, context_);
  return ReadOnly(queries);
}

}  // namespace conclave::engine

#include "services/engine/layers/grouped_attention.h"

#include <algorithm>

#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "services/engine/layers/rope_setup.h"

namespace conclave::engine {

using kernels::MatrixView;

GroupedAttention::GroupedAttention(const weights::ModelConfig& config,
                                   const kernels::KvShape& shape, const kernels::RopeTable& rope,
                                   kernels::Context& context)
    : config_(config),
      rope_(rope),
      context_(context),
      parameters_(AttentionParametersOf(config, shape)) {}

void GroupedAttention::Run(const weights::LayerWeights& weights, const kernels::KvLayer& kv,
                           const StepRows& rows, MatrixView<const float> input,
                           MatrixView<float> output) {
  const weights::GroupedAttentionWeights& w = *weights.grouped;
  const weights::AttentionConfig& attention = config_.attention;
  const int64_t num_rows = rows.num_rows();
  const auto q = q_.Shape(num_rows, int64_t{attention.num_heads} * attention.head_dim);
  const auto k = k_.Shape(num_rows, int64_t{attention.num_kv_heads} * attention.head_dim);
  const auto v = v_.Shape(num_rows, k.cols);
  const auto attended = attended_.Shape(num_rows, q.cols);

  Project(w.q, w.q_bias, input, q);
  Project(w.k, w.k_bias, input, k);
  Project(w.v, w.v_bias, input, v);
  NormAndRotate(w.q_norm, attention.num_heads, rows, q);
  NormAndRotate(w.k_norm, attention.num_kv_heads, rows, k);
  Clamp(v);

  kernels::WriteKv(parameters_.kv, kv, rows.sequences(), ReadOnly(k), ReadOnly(v), context_);
  kernels::Attention(parameters_, kv, rows.sequences(), ReadOnly(q), attended, context_);
  kernels::Matmul(w.o, ReadOnly(attended), output, context_);
}

void GroupedAttention::Project(const kernels::PackedMatrix& weight, const std::vector<float>& bias,
                               MatrixView<const float> input, MatrixView<float> output) {
  if (bias.empty()) {
    kernels::Matmul(weight, input, output, context_);
  } else {
    kernels::MatmulBias(weight, bias.data(), input, output, context_);
  }
}

void GroupedAttention::NormAndRotate(const std::vector<float>& norm, int64_t heads,
                                     const StepRows& rows, MatrixView<float> projected) {
  const int64_t head_dim = config_.attention.head_dim;
  const float epsilon = static_cast<float>(config_.norm_epsilon);
  switch (config_.attention.query_key_norm) {
    case weights::QueryKeyNorm::kNone:
      break;
    case weights::QueryKeyNorm::kPerHead: {
      const auto per_head = kernels::DenseView(projected.data, projected.rows * heads, head_dim);
      kernels::RmsNorm(ReadOnly(per_head), norm.data(), epsilon, per_head, context_);
      break;
    }
    case weights::QueryKeyNorm::kFullWidth:
      kernels::RmsNorm(ReadOnly(projected), norm.data(), epsilon, projected, context_);
      break;
  }
  Clamp(projected);
  kernels::ApplyRope(rope_, RopePairingOf(config_.rope), rows.positions(), heads, head_dim,
                     projected, context_);
}

void GroupedAttention::Clamp(MatrixView<float> rows) const {
  const float limit = static_cast<float>(config_.attention.clip_qkv);
  if (limit == 0) return;
  for (float& x : std::span(rows.data, static_cast<size_t>(rows.rows * rows.cols))) {
    x = std::clamp(x, -limit, limit);
  }
}

}  // namespace conclave::engine

#include "shared/weights/quantization_error.h"

#include <cmath>

#include "shared/base/check.h"
#include "shared/weights/tensor_table.h"

namespace conclave::weights {

std::optional<TensorKind> TensorKindOf(std::string_view name, bool is_table) {
  const auto has = [&](std::string_view part) { return name.find(part) != std::string_view::npos; };
  if (is_table) return TensorKind::kEmbedding;
  // Tied ones are one tensor, packed a second time.
  if (name == kLmHeadName || name == kEmbeddingName) return TensorKind::kLmHead;
  if (has(".self_attn.")) return TensorKind::kAttention;
  if (has(".mlp.experts.")) return TensorKind::kExperts;
  if (has(".mlp.gate.") || has(".mlp.shared_expert_gate.")) return std::nullopt;
  return TensorKind::kFfn;
}

std::string_view TensorKindName(TensorKind kind) {
  switch (kind) {
    case TensorKind::kEmbedding:
      return "embedding";
    case TensorKind::kAttention:
      return "attention";
    case TensorKind::kFfn:
      return "ffn";
    case TensorKind::kExperts:
      return "experts";
    case TensorKind::kLmHead:
      break;
  }
  return "lm_head";
}

double SquaredError::Relative() const { return errors > 0 ? std::sqrt(errors / weights) : 0; }

void SquaredError::Add(const SquaredError& other) {
  errors += other.errors;
  weights += other.weights;
}

void SquaredError::Add(std::span<const float> exact, std::span<const float> quantized) {
  CONCLAVE_CHECK(exact.size() == quantized.size());
  for (size_t i = 0; i < exact.size(); ++i) {
    const double error = double{exact[i]} - double{quantized[i]};
    errors += error * error;
    weights += double{exact[i]} * double{exact[i]};
  }
}

void KindErrors::Add(const KindErrors& other) {
  for (const TensorKind kind : kTensorKinds) Of(kind).Add(other.Of(kind));
}

}  // namespace conclave::weights

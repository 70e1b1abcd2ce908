#include "shared/weights/stored_formats.h"

#include "shared/weights/quantization_error.h"
#include "shared/weights/tensor_table.h"

namespace conclave::weights {

using kernels::NumericsClass;
using kernels::WeightFormat;

WeightFormats FormatsOf(const Checkpoint& checkpoint, std::optional<NumericsClass> numerics) {
  std::optional<WeightFormat> dense, experts;  // of what is stored as int4
  for (const TensorSpec& spec : TensorTable(checkpoint.config())) {
    const auto kind = spec.shape.size() == 2 ? TensorKindOf(spec.name, false) : std::nullopt;
    if (!kind || kind == TensorKind::kLmHead || (dense && kind != TensorKind::kExperts)) continue;
    std::optional<WeightFormat> stored = checkpoint.IntegersOf(spec.name);
    if (!stored) continue;
    stored->zeros = false;  // each matrix has its own
    (kind == TensorKind::kExperts ? experts : dense) = stored;
  }
  if (!dense && !experts) return numerics.value_or(NumericsClass::kBf16);
  if (!numerics) {
    WeightFormats formats(dense ? NumericsClass::kInt4 : NumericsClass::kBf16);
    formats.dense = dense.value_or(WeightFormat::kBf16);
    formats.experts = experts.value_or(WeightFormat::kBf16);
    return formats;
  }
  WeightFormats formats(*numerics);
  if (*numerics == NumericsClass::kInt8 && experts) formats.experts = *experts;
  if (*numerics == NumericsClass::kInt4)
    formats.dense = formats.experts = dense ? *dense : *experts;
  return formats;
}

}  // namespace conclave::weights

// kernels/quantize.h on 16 lanes, to the same bits.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/context.h"
#include "kernels/matrix.h"

namespace conclave::kernels::cpu {

struct QuantizeFunctions {
  float (*group)(WeightType type, std::span<const float> values, int8_t* quantized);

  // To int8; `padded` integers are written, zeros beyond `values`. Returns the scale, and puts the
  // sum of the integers into `sum`.
  float (*int8)(std::span<const float> values, int64_t padded, int8_t* quantized, int32_t* sum);
};

// Precondition: `level` is above kReference and supported.
const QuantizeFunctions& QuantizeFor(CpuLevel level);

}  // namespace conclave::kernels::cpu

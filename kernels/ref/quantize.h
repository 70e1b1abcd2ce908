// The plain form of kernels/quantize.h.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/matrix.h"

namespace conclave::kernels::ref {

float QuantizeGroup(WeightType type, std::span<const float> values, int8_t* quantized);

}  // namespace conclave::kernels::ref

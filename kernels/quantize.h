// Floats to integers with one scale (docs/numerics.md, "Quantising"). Internal to kernels/.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/matrix.h"

namespace conclave::kernels {

inline constexpr int64_t kMaxGroup = 128;

// Below this magnitude a group is zero: its inverse scale would leave the range of f32.
inline constexpr float kZeroBelow = 0x1p-100f;

// Writes values.size() (at most kMaxGroup) integers of `type`, kInt8 or kInt4, and returns their
// scale: value = scale * integer. Where a value is no finite number the integers are 0 and the
// scale is a NaN.
float QuantizeGroup(WeightType type, std::span<const float> values, int8_t* quantized);

}  // namespace conclave::kernels

// Where an element lies in a panel: 16 outputs side by side, so that a SIMD lane owns one output.
// Weight matrices and the blocks of the KV cache are made of panels. Internal to kernels/.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/matrix.h"

namespace conclave::kernels {

// Bytes of one panel of `num_inputs` inputs; a multiple of 64.
inline size_t PanelBytes(WeightFormat format, int64_t num_inputs) {
  const int64_t rows = format == WeightFormat::kF32 ? num_inputs : (num_inputs + 1) / 2;
  return static_cast<size_t>(rows) * kPanelOutputs * sizeof(float);
}

// Index, in elements of the format, of (input, output) in a panel: f32 [num_inputs][16]; bf16
// [ceil(num_inputs / 2)][16][2].
inline int64_t PanelIndex(WeightFormat format, int64_t input, int64_t output) {
  return format == WeightFormat::kF32 ? input * kPanelOutputs + output
                                      : (input / 2) * (2 * kPanelOutputs) + output * 2 + input % 2;
}

inline int64_t NumPanels(int64_t num_outputs) {
  return (num_outputs + kPanelOutputs - 1) / kPanelOutputs;
}

// The element at an index, widened to f32.
inline float PanelValue(WeightFormat format, const std::byte* panel, int64_t index) {
  return format == WeightFormat::kF32 ? reinterpret_cast<const float*>(panel)[index]
                                      : ToFloat(reinterpret_cast<const bf16*>(panel)[index]);
}

}  // namespace conclave::kernels

// The input rows of a matmul as its chain wants them: f32 as they are, or rounded to bf16 and
// padded to whole pairs.
#pragma once

#include "kernels/context.h"
#include "kernels/matrix.h"

namespace conclave::kernels::cpu {

struct RoundedRows {
  const std::byte* data = nullptr;
  int64_t stride = 0;  // bytes from row to row
  int64_t steps = 0;   // of 4 bytes
};

// Steps of a chain over `num_inputs` inputs.
inline int64_t NumSteps(WeightFormat format, int64_t num_inputs) {
  return format == WeightFormat::kF32 ? num_inputs : (num_inputs + 1) / 2;
}

// Bytes that RoundRowsFor writes for `num_rows` rows of `num_inputs`.
size_t RoundedBytes(WeightFormat format, int64_t num_rows, int64_t num_inputs);

// Borrows `input` in format f32; else rounds into `slot` of `context`'s scratch, on its threads.
// Valid until the slot's next use.
RoundedRows RoundRowsFor(WeightFormat format, MatrixView<const float> input, ScratchSlot slot,
                         Context& context);

}  // namespace conclave::kernels::cpu

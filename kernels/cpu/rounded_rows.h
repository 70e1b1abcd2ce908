// The input rows of a matmul as its chain wants them, padded to whole steps (kernels/panel.h):
//
//   f32         as they are
//   bf16        rounded, in pairs
//   int8, int4  of each group [group] int8, the scale (f32), and the negated sum of the integers
//               (int32), for int8 times the offset of its weights: what the sums begin with
#pragma once

#include "kernels/context.h"
#include "kernels/cpu/chain.h"
#include "kernels/panel.h"

namespace conclave::kernels::cpu {

struct RoundedRows {
  const std::byte* data = nullptr;
  int64_t stride = 0;  // bytes from row to row
  int64_t steps = 0;
};

// Bytes of a step of a row: a multiple of 4.
inline int64_t StepRowBytes(WeightFormat format) {
  return format.integers() ? format.group + 8 : kStepRowBytes;
}

// Bytes of a row of `num_inputs`.
inline int64_t RoundedRowBytes(WeightFormat format, int64_t num_inputs) {
  return NumSteps(format, num_inputs) * StepRowBytes(format);
}

// One row, to `output` (RoundedRowBytes long), at a level above kReference. Not for format f32.
void RoundRowFor(CpuLevel level, WeightFormat format, const float* row, int64_t num_inputs,
                 std::byte* output);

// Borrows `input` in format f32; else rounds into `slot` of `context`'s scratch, on its threads.
// Valid until the slot's next use.
RoundedRows RoundRowsFor(WeightFormat format, MatrixView<const float> input, ScratchSlot slot,
                         Context& context);

}  // namespace conclave::kernels::cpu

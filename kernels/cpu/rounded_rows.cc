#include "kernels/cpu/rounded_rows.h"

#include "kernels/cpu/rows_avx512.h"
#include "kernels/grain.h"

namespace conclave::kernels::cpu {
size_t RoundedBytes(WeightFormat format, int64_t num_rows, int64_t num_inputs) {
  return static_cast<size_t>(num_rows * NumSteps(format, num_inputs)) * sizeof(float);
}

RoundedRows RoundRowsFor(WeightFormat format, MatrixView<const float> input, ScratchSlot slot,
                         Context& context) {
  const int64_t steps = NumSteps(format, input.cols);
  if (format == WeightFormat::kF32) {
    return {reinterpret_cast<const std::byte*>(input.data),
            input.stride * static_cast<int64_t>(sizeof(float)), steps};
  }
  std::byte* rounded = context.Scratch(slot, RoundedBytes(format, input.rows, input.cols));
  context.pool().ParallelFor(
      input.rows, RowGrain(input.cols), [&](int64_t begin, int64_t end, int) {
        for (int64_t r = begin; r < end; ++r) {
          RoundRow(input.Row(r), input.cols, 2 * steps, rounded + r * 4 * steps);
        }
      });
  return {rounded, steps * 4, steps};
}

}  // namespace conclave::kernels::cpu

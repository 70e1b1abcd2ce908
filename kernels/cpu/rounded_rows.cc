#include "kernels/cpu/rounded_rows.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/quantize.h"
#include "kernels/cpu/rows.h"
#include "kernels/grain.h"

namespace conclave::kernels::cpu {

void RoundRowFor(CpuLevel level, WeightFormat format, const float* row, int64_t num_inputs,
                 std::byte* output) {
  if (!format.integers()) {
    RowsFor(level).round(row, num_inputs, 2 * NumSteps(format, num_inputs), output);
    return;
  }
  const QuantizeFunctions& quantize = QuantizeFor(level);
  const int32_t offset = format.type == WeightType::kInt8 ? 128 : 1;
  for (int64_t first = 0; first < num_inputs; first += format.group) {
    const auto count = std::min<int64_t>(format.group, num_inputs - first);
    int32_t sum;
    const float scale = quantize.int8({row + first, static_cast<size_t>(count)}, format.group,
                                      reinterpret_cast<int8_t*>(output), &sum);
    const int32_t start = -offset * sum;
    std::memcpy(output + format.group, &scale, sizeof(scale));
    std::memcpy(output + format.group + sizeof(scale), &start, sizeof(start));
    output += StepRowBytes(format);
  }
}

RoundedRows RoundRowsFor(WeightFormat format, MatrixView<const float> input, ScratchSlot slot,
                         Context& context) {
  const int64_t steps = NumSteps(format, input.cols);
  if (format == WeightFormat::kF32) {
    return {reinterpret_cast<const std::byte*>(input.data),
            input.stride * static_cast<int64_t>(sizeof(float)), steps};
  }
  const int64_t row_bytes = RoundedRowBytes(format, input.cols);
  std::byte* rounded = context.Scratch(slot, static_cast<size_t>(input.rows * row_bytes));
  context.pool().ParallelFor(
      input.rows, RowGrain(input.cols), [&](int64_t begin, int64_t end, int) {
        for (int64_t r = begin; r < end; ++r) {
          RoundRowFor(context.level(), format, input.Row(r), input.cols, rounded + r * row_bytes);
        }
      });
  return {rounded, row_bytes, steps};
}

}  // namespace conclave::kernels::cpu

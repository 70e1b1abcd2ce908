#include "kernels/elementwise.h"

#include <cstring>

#include "kernels/cpu/rows.h"
#include "kernels/grain.h"
#include "kernels/ref/rows.h"

namespace conclave::kernels {

void Add(MatrixView<const float> a, MatrixView<const float> b, MatrixView<float> output,
         Context& context) {
  if (context.level() == CpuLevel::kReference) {
    ref::Add(a, b, output);
    return;
  }
  context.pool().ParallelFor(
      output.rows, RowGrain(output.cols), [&](int64_t begin, int64_t end, int) {
        for (int64_t r = begin; r < end; ++r) {
          cpu::RowsFor(context.level()).add(a.Row(r), b.Row(r), output.cols, output.Row(r));
        }
      });
}

void ScaleBySigmoid(std::span<const float> scores, MatrixView<float> rows, Context& context) {
  if (context.level() == CpuLevel::kReference) {
    ref::ScaleBySigmoid(scores, rows);
    return;
  }
  context.pool().ParallelFor(rows.rows, RowGrain(rows.cols), [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      cpu::RowsFor(context.level())
          .scale_by_sigmoid(scores[static_cast<size_t>(r)], rows.cols, rows.Row(r));
    }
  });
}

RowType RowTypeOf(NumericsClass numerics) {
  return numerics == NumericsClass::kF32 ? RowType::kF32 : RowType::kBf16;
}

size_t RowTypeBytes(RowType type) { return type == RowType::kF32 ? sizeof(float) : sizeof(bf16); }

void RoundRows(RowType type, MatrixView<const float> rows, std::byte* output) {
  const CpuLevel level = BestCpuLevel();  // no context: the bits are the same
  const size_t row_bytes = static_cast<size_t>(rows.cols) * RowTypeBytes(type);
  for (int64_t r = 0; r < rows.rows; ++r, output += row_bytes) {
    const float* row = rows.Row(r);
    if (type == RowType::kF32) {
      std::memcpy(output, row, row_bytes);
      continue;
    }
    if (level != CpuLevel::kReference) {
      cpu::RowsFor(level).round(row, rows.cols, rows.cols, output);
      continue;
    }
    for (int64_t i = 0; i < rows.cols; ++i) {
      const bf16 rounded = ToBf16(row[i]);
      std::memcpy(output + i * sizeof(bf16), &rounded, sizeof(bf16));
    }
  }
}

void WidenRows(RowType type, const std::byte* input, MatrixView<float> rows) {
  const size_t row_bytes = static_cast<size_t>(rows.cols) * RowTypeBytes(type);
  for (int64_t r = 0; r < rows.rows; ++r, input += row_bytes) {
    float* row = rows.Row(r);
    if (type == RowType::kF32) {
      std::memcpy(row, input, row_bytes);
      continue;
    }
    for (int64_t i = 0; i < rows.cols; ++i) {
      bf16 value;
      std::memcpy(&value, input + i * sizeof(bf16), sizeof(bf16));
      row[i] = ToFloat(value);
    }
  }
}

}  // namespace conclave::kernels

// Small operations on rows of activations.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "kernels/context.h"
#include "kernels/matrix.h"

namespace conclave::kernels {

// output = a + b, element by element, one rounding each. output may be a or b.
void Add(MatrixView<const float> a, MatrixView<const float> b, MatrixView<float> output,
         Context& context);

// rows[r] *= sigmoid(scores[r]): the gate of Qwen2-MoE's shared expert. scores: [num_rows].
void ScaleBySigmoid(std::span<const float> scores, MatrixView<float> rows, Context& context);

// Row types of a numerics class: what an expert's input and result rows are rounded to, in-process
// and on the wire.
enum class RowType : uint8_t { kF32 = 1, kBf16 = 2 };
RowType RowTypeOf(NumericsClass numerics);
size_t RowTypeBytes(RowType type);  // of one element

// Rounds f32 rows to `type`, densely packed: [rows.rows, rows.cols]. Round to nearest even.
void RoundRows(RowType type, MatrixView<const float> rows, std::byte* output);
// The exact inverse: widens densely packed rows to f32.
void WidenRows(RowType type, const std::byte* input, MatrixView<float> rows);

}  // namespace conclave::kernels

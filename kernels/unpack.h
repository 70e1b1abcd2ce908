// The values of a packed weight matrix: what quantising made of those that were packed. For checks
// and for measuring its error; not fast.
#pragma once

#include "kernels/matrix.h"

namespace conclave::kernels {

// Outputs [first_output, first_output + rows.rows) of `matrix` into rows of num_inputs columns:
// the stored float, or the integer times its scale, rounded to f32 once.
void UnpackRows(const PackedMatrix& matrix, int64_t first_output, MatrixView<float> rows);

}  // namespace conclave::kernels

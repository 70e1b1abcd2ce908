// The product of activation rows and a weight matrix.
//
// Called on a compute thread. A row's result depends on that row and the weights alone.
#pragma once

#include "kernels/context.h"
#include "kernels/matrix.h"

namespace conclave::kernels {

// output[m][n] = sum over k of input[m][k] * weight[n][k]: one chain of fused multiply-adds per
// output, k ascending (bf16: pairs ascending, in a pair the odd element first, subnormals flushed).
// The input is first rounded to the weight's input type (docs/numerics.md, "Matmul"). input
// [num_rows, num_inputs] f32; output [num_rows, num_outputs] f32, not overlapping.
void Matmul(const PackedMatrix& weight, MatrixView<const float> input, MatrixView<float> output,
            Context& context);

// As Matmul, then adds bias[n] (f32, one rounding) to every output.
void MatmulBias(const PackedMatrix& weight, const float* bias, MatrixView<const float> input,
                MatrixView<float> output, Context& context);

}  // namespace conclave::kernels

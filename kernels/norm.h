// Root-mean-square normalisation.
#pragma once

#include "kernels/context.h"
#include "kernels/matrix.h"

namespace conclave::kernels {

// output[r][i] = input[r][i] / sqrt(mean(input[r]^2) + epsilon) * weight[i], in f32; the order of
// the sum is that of docs/numerics.md ("Sums in 16 lanes"). `weight` has input.cols elements.
// output may be input.
void RmsNorm(MatrixView<const float> input, const float* weight, float epsilon,
             MatrixView<float> output, Context& context);

}  // namespace conclave::kernels

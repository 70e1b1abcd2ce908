// The plain form of kernels/matmul.h and of its head-wise and feed-forward uses: the oracle of
// every faster one.
#pragma once

#include <span>

#include "kernels/ffn.h"
#include "kernels/matrix.h"

namespace conclave::kernels::ref {

// `bias` is [weight.num_outputs] or null.
void Matmul(const PackedMatrix& weight, const float* bias, MatrixView<const float> input,
            MatrixView<float> output);

void HeadMatmul(std::span<const PackedMatrix> weights, MatrixView<const float> input,
                int64_t input_head_stride, MatrixView<float> output, int64_t output_head_stride);

void FeedForward(const FfnWeights& weights, MatrixView<const float> input,
                 MatrixView<float> output);

void ExpertFfn(std::span<const FfnWeights> experts, const ExpertBatch& batch);

}  // namespace conclave::kernels::ref

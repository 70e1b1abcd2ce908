// The plain forms of the small operations on rows: kernels/norm.h, rope.h, elementwise.h and
// gate.h.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/gate.h"
#include "kernels/matrix.h"
#include "kernels/rope.h"

namespace conclave::kernels::ref {

void RmsNorm(MatrixView<const float> input, const float* weight, float epsilon,
             MatrixView<float> output);

void ApplyRope(const RopeTable& table, RopePairing pairing, std::span<const int32_t> positions,
               int64_t num_heads, int64_t head_stride, MatrixView<float> rows);

void Add(MatrixView<const float> a, MatrixView<const float> b, MatrixView<float> output);

void ScaleBySigmoid(std::span<const float> scores, MatrixView<float> rows);

void Gate(const GateParameters& parameters, MatrixView<const float> logits, MatrixView<int32_t> ids,
          MatrixView<float> weights);

void CombineExperts(MatrixView<const float> rows, MatrixView<const float> weights,
                    MatrixView<float> accumulator);

}  // namespace conclave::kernels::ref

// Row operations on 16 lanes: the vector forms of kernels/ref/rows.h and the roundings between
// them. Every one gives the bits of its reference. Pointers need no alignment; lengths are any.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/bf16.h"
#include "kernels/context.h"

namespace conclave::kernels::cpu {

struct RowFunctions {
  // output[i] = bf16(input[i]) for i < count, and zeros up to `padded`. `output` may lie at an odd
  // address.
  void (*round)(const float* input, int64_t count, int64_t padded, std::byte* output);

  // output[i] = silu(gate[i]) * up[i].
  void (*silu_multiply)(const float* gate, const float* up, int64_t count, float* output);
  void (*silu_multiply_to_bf16)(const float* gate, const float* up, int64_t count, bf16* output);

  // output[i] = a[i] + b[i]; output may be a or b.
  void (*add)(const float* a, const float* b, int64_t count, float* output);

  // row[i] *= sigmoid(score).
  void (*scale_by_sigmoid)(float score, int64_t count, float* row);

  // kernels/norm.h, one row.
  void (*norm)(const float* input, const float* weight, float epsilon, int64_t count,
               float* output);

  // kernels/rope.h, one head, in place: pairs (2i, 2i+1), or (i, i + num_pairs).
  void (*rotate_interleaved)(const float* cos, const float* sin, int64_t num_pairs, float* head);
  void (*rotate_halves)(const float* cos, const float* sin, int64_t num_pairs, float* head);

  // accumulator[i] = fma(weights[j], rows[j * stride + i], accumulator[i]) for j ascending.
  void (*combine)(const float* rows, int64_t stride, const float* weights, int64_t num_rows,
                  int64_t count, float* accumulator);

  // kernels/gate.h, step 1. scores: [count], may be logits.
  void (*softmax_scores)(const float* logits, int64_t count, float* scores);
  void (*sigmoid_scores)(const float* logits, int64_t count, float* scores);

  // The first index of the largest of values[0, count), a NaN being none of them. Precondition: not
  // all are NaN.
  int64_t (*index_of_max)(const float* values, int64_t count);
};

// Precondition: `level` is above kReference and supported.
const RowFunctions& RowsFor(CpuLevel level);

}  // namespace conclave::kernels::cpu

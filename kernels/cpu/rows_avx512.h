// Row operations on 16 lanes: the AVX-512 forms of kernels/ref/rows.h and the roundings between
// them. Every one gives the bits of its reference. Pointers need no alignment; lengths are any.
#pragma once

#include <cstdint>

#include "kernels/bf16.h"

namespace conclave::kernels::cpu {

// output[i] = bf16(input[i]) for i < count, and zeros up to `padded`.
void RoundRow(const float* input, int64_t count, int64_t padded, bf16* output);

// output[i] = silu(gate[i]) * up[i].
void SiluMultiply(const float* gate, const float* up, int64_t count, float* output);
void SiluMultiply(const float* gate, const float* up, int64_t count, bf16* output);

// row[i] += bias[i].
void AddTo(const float* bias, int64_t count, float* row);

}  // namespace conclave::kernels::cpu

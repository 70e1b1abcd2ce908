// The AVX-512 forms of kernels/logit_passes.h.
#pragma once

#include <cstdint>

namespace conclave::kernels::cpu {

void CopyLogits(const float* logits, int64_t count, float* output);
int64_t IndexOfLargest(const float* logits, int64_t count);
float Largest(const float* logits, int64_t count);
// `ids` and `kept` have room for `count`; returns how many were written.
int64_t CollectFrom(const float* logits, int64_t count, float threshold, int32_t* ids, float* kept);
void WeighLogits(const float* logits, int64_t count, float largest, float temperature,
                 uint64_t* weights);
uint64_t SumOfWeights(const float* logits, int64_t count, float largest, float temperature);

}  // namespace conclave::kernels::cpu

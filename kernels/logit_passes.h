// Single passes over a row of logits, each at the level it is given. Levels give the same results:
// where a sum is taken, it is of integers. Internal to kernels/; used by the sampler.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/context.h"

namespace conclave::kernels {

// The runs whose largest logits bound the k-th largest of all from below.
inline constexpr int64_t kRunLogits = 256;

// output = logits, NaN as -infinity and +infinity as the largest float.
void CopyLogits(CpuLevel level, std::span<const float> logits, std::vector<float>& output);

// The lowest id of the largest logit; 0 if there is none but NaN.
int32_t IndexOfLargest(CpuLevel level, std::span<const float> logits);

// The largest logit of every run of kRunLogits. No logit is NaN, here and below.
void LargestOfRuns(CpuLevel level, std::span<const float> logits, std::vector<float>& maxima);

// The ids and logits of all that are at least `threshold`, ids ascending.
void CollectFrom(CpuLevel level, std::span<const float> logits, float threshold,
                 std::vector<int32_t>& ids, std::vector<float>& kept);

// floor(exp((logit - largest) / temperature) * 2^40).
void WeighLogits(CpuLevel level, std::span<const float> logits, float largest, float temperature,
                 std::vector<uint64_t>& weights);
// The sum of these.
uint64_t SumOfWeights(CpuLevel level, std::span<const float> logits, float largest,
                      float temperature);

}  // namespace conclave::kernels

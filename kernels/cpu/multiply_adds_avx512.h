// A loop of independent multiply-adds. Included only by files compiled for AVX-512, with types of
// their anonymous namespaces.
#pragma once

#include <immintrin.h>

#include <cstdint>

namespace conclave::kernels::cpu {

// As many sums as the largest register tile has: enough to cover any latency.
inline constexpr int kSums = 24;

// `Instruction::Apply(sum, a, b)` does kOperations.
template <typename Instruction>
int64_t RunMultiplyAdds(int64_t rounds) {
  // Small bf16 and f32 numbers, and bytes.
  const __m512i a = _mm512_set1_epi32(0x3c003c00), b = _mm512_set1_epi32(0x3c013c01);
  __m512i sums[kSums];
#pragma GCC unroll 24
  for (__m512i& sum : sums) sum = a;
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 24
    for (__m512i& sum : sums) Instruction::Apply(sum, a, b);
  }
  return rounds * kSums * Instruction::kOperations;
}

}  // namespace conclave::kernels::cpu

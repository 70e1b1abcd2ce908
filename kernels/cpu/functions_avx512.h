// The f32 functions and roundings of docs/numerics.md on 16 lanes. Included only by files compiled
// for AVX-512; everything has internal linkage, so that the linker never lends it to other code.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/functions.h"

namespace conclave::kernels::cpu {
namespace {

inline __m512 Exp(__m512 x) {
  const __m512 magic = _mm512_set1_ps(kExpMagic);
  const __m512 t = _mm512_fmadd_ps(x, _mm512_set1_ps(kExpLog2E), magic);
  const __m512 n = _mm512_sub_ps(t, magic);
  __m512 r = _mm512_fmadd_ps(n, _mm512_set1_ps(-kExpLn2High), x);
  r = _mm512_fmadd_ps(n, _mm512_set1_ps(-kExpLn2Low), r);
  __m512 p = _mm512_set1_ps(kExpC[6]);
#pragma GCC unroll 6
  for (int i = 5; i >= 0; --i) p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(kExpC[i]));
  __m512 result = _mm512_castsi512_ps(
      _mm512_add_epi32(_mm512_castps_si512(p), _mm512_slli_epi32(_mm512_castps_si512(t), 23)));
  const __mmask16 small = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kExpMin), _CMP_LT_OQ);
  const __mmask16 large = _mm512_cmp_ps_mask(x, _mm512_set1_ps(kExpMax), _CMP_GT_OQ);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  result = _mm512_mask_mov_ps(result, small, _mm512_setzero_ps());
  result = _mm512_mask_mov_ps(result, large, _mm512_set1_ps(__builtin_inff()));
  return _mm512_mask_mov_ps(result, nan, x);
}

inline __m512 Negate(__m512 x) {
  return _mm512_castsi512_ps(
      _mm512_xor_si512(_mm512_castps_si512(x), _mm512_set1_epi32(INT32_MIN)));
}

inline __m512 Sigmoid(__m512 x) {
  const __m512 one = _mm512_set1_ps(1.0f);
  return _mm512_div_ps(one, _mm512_add_ps(one, Exp(Negate(x))));
}

inline __m512 Silu(__m512 x) {
  return _mm512_div_ps(x, _mm512_add_ps(_mm512_set1_ps(1.0f), Exp(Negate(x))));
}

// bf16(x) in the low half of every lane. (VCVTNEPS2BF16 flushes subnormals, which the page does
// not.)
inline __m512i ToBf16Lanes(__m512 x) {
  const __m512i u = _mm512_castps_si512(x);
  const __m512i upper = _mm512_srli_epi32(u, 16);
  const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  const __m512i rounded =
      _mm512_srli_epi32(_mm512_add_epi32(_mm512_add_epi32(u, _mm512_set1_epi32(0x7fff)), odd), 16);
  const __mmask16 nan = _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q);
  return _mm512_mask_or_epi32(rounded, nan, upper, _mm512_set1_epi32(0x0040));
}

inline __m256i ToBf16(__m512 x) { return _mm512_cvtepi32_epi16(ToBf16Lanes(x)); }

inline __m512 WidenBf16(__m256i x) {
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(x), 16));
}

// The halving tree of "Sums in 16 lanes".
inline float SumLanes(__m512 x) {
  const __m256 high8 = _mm512_extractf32x8_ps(x, 1);
  const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(x), high8);
  const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
  const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
  return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
}

// Masked stores are slow on some processors, so whole vectors go without a mask.
inline void Store(float* to, __mmask16 lanes, __m512 x) {
  if (lanes == 0xffff) {
    _mm512_storeu_ps(to, x);
  } else {
    _mm512_mask_storeu_ps(to, lanes, x);
  }
}

inline void StoreBf16(void* to, __mmask16 lanes, __m256i x) {
  if (lanes == 0xffff) {
    _mm256_storeu_si256(static_cast<__m256i*>(to), x);
  } else {
    _mm256_mask_storeu_epi16(to, lanes, x);
  }
}

// The lanes [0, count) of a vector, all of them from 16 on.
inline __mmask16 FirstLanes(int64_t count) {
  return count >= 16 ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
}

}  // namespace
}  // namespace conclave::kernels::cpu

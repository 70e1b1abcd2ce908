#include "kernels/cpu/logit_passes_avx512.h"

#include <immintrin.h>

#include "kernels/cpu/functions_avx512.h"
#include "kernels/cpu/rows_avx512.h"

namespace conclave::kernels::cpu {
namespace {

constexpr float kInfinity = __builtin_inff();

struct Weights16 {
  __m512i low, high;  // of lanes 0-7 and 8-15
};

// floor(exp((logit - largest) / temperature) * 2^40): the product is exact in f64, and conversion
// truncates.
Weights16 WeightsOf(__m512 logits, __m512 largest, __m512 temperature) {
  const __m512 e = Exp(_mm512_div_ps(_mm512_sub_ps(logits, largest), temperature));
  const __m512d scale = _mm512_set1_pd(0x1p+40);
  const __m512d low = _mm512_cvtps_pd(_mm512_castps512_ps256(e));
  const __m512d high = _mm512_cvtps_pd(_mm512_extractf32x8_ps(e, 1));
  return {_mm512_cvttpd_epu64(_mm512_mul_pd(low, scale)),
          _mm512_cvttpd_epu64(_mm512_mul_pd(high, scale))};
}

}  // namespace

void CopyLogits(const float* logits, int64_t count, float* output) {
  const __m512 lowest = _mm512_set1_ps(-kInfinity);
  const __m512 highest = _mm512_set1_ps(__FLT_MAX__);
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    // With a NaN first, a maximum is its second operand.
    const __m512 x = _mm512_max_ps(_mm512_maskz_loadu_ps(lanes, logits + i), lowest);
    Store(output + i, lanes, _mm512_min_ps(x, highest));
  }
}

int64_t IndexOfLargest(const float* logits, int64_t count) { return IndexOfMax(logits, count); }

float Largest(const float* logits, int64_t count) {
  __m512 largest = _mm512_set1_ps(-kInfinity);
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    largest = _mm512_mask_max_ps(largest, lanes, _mm512_maskz_loadu_ps(lanes, logits + i), largest);
  }
  return _mm512_reduce_max_ps(largest);
}

int64_t CollectFrom(const float* logits, int64_t count, float threshold, int32_t* ids,
                    float* kept) {
  const __m512 least = _mm512_set1_ps(threshold);
  __m512i index = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  int64_t found = 0;
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    const __m512 x = _mm512_maskz_loadu_ps(lanes, logits + i);
    const __mmask16 keep = _mm512_mask_cmp_ps_mask(lanes, x, least, _CMP_GE_OQ);
    if (keep != 0) {
      // Compressed in the register: a compressing store is slow on some processors.
      const int64_t number = __builtin_popcount(keep);
      const __mmask16 first = FirstLanes(number);
      _mm512_mask_storeu_epi32(ids + found, first, _mm512_maskz_compress_epi32(keep, index));
      Store(kept + found, first, _mm512_maskz_compress_ps(keep, x));
      found += number;
    }
    index = _mm512_add_epi32(index, _mm512_set1_epi32(16));
  }
  return found;
}

void WeighLogits(const float* logits, int64_t count, float largest, float temperature,
                 uint64_t* weights) {
  const __m512 shift = _mm512_set1_ps(largest);
  const __m512 divisor = _mm512_set1_ps(temperature);
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    const Weights16 w = WeightsOf(_mm512_maskz_loadu_ps(lanes, logits + i), shift, divisor);
    _mm512_mask_storeu_epi64(weights + i, static_cast<__mmask8>(lanes), w.low);
    if (count - i > 8) {
      _mm512_mask_storeu_epi64(weights + i + 8, static_cast<__mmask8>(lanes >> 8), w.high);
    }
  }
}

uint64_t SumOfWeights(const float* logits, int64_t count, float largest, float temperature) {
  const __m512 shift = _mm512_set1_ps(largest);
  const __m512 divisor = _mm512_set1_ps(temperature);
  const __m512 lowest = _mm512_set1_ps(-kInfinity);  // weighs nothing
  __m512i sum = _mm512_setzero_si512();
  for (int64_t i = 0; i < count; i += 16) {
    const __m512 x = _mm512_mask_loadu_ps(lowest, FirstLanes(count - i), logits + i);
    const Weights16 w = WeightsOf(x, shift, divisor);
    sum = _mm512_add_epi64(sum, _mm512_add_epi64(w.low, w.high));
  }
  return static_cast<uint64_t>(_mm512_reduce_add_epi64(sum));
}

}  // namespace conclave::kernels::cpu

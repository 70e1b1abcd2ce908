#include "kernels/cpu/rows_avx512.h"

#include <immintrin.h>

#include "kernels/cpu/functions_avx512.h"

namespace conclave::kernels::cpu {

void RoundRow(const float* input, int64_t count, int64_t padded, bf16* output) {
  for (int64_t i = 0; i < padded; i += 16) {
    const __m512 x =
        i < count ? _mm512_maskz_loadu_ps(FirstLanes(count - i), input + i) : _mm512_setzero_ps();
    _mm256_mask_storeu_epi16(output + i, FirstLanes(padded - i), ToBf16(x));
  }
}

void SiluMultiply(const float* gate, const float* up, int64_t count, float* output) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    const __m512 g = _mm512_maskz_loadu_ps(lanes, gate + i);
    const __m512 u = _mm512_maskz_loadu_ps(lanes, up + i);
    _mm512_mask_storeu_ps(output + i, lanes, _mm512_mul_ps(Silu(g), u));
  }
}

void SiluMultiply(const float* gate, const float* up, int64_t count, bf16* output) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    const __m512 g = _mm512_maskz_loadu_ps(lanes, gate + i);
    const __m512 u = _mm512_maskz_loadu_ps(lanes, up + i);
    _mm256_mask_storeu_epi16(output + i, lanes, ToBf16(_mm512_mul_ps(Silu(g), u)));
  }
}

void AddTo(const float* bias, int64_t count, float* row) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    const __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, row + i),
                                     _mm512_maskz_loadu_ps(lanes, bias + i));
    _mm512_mask_storeu_ps(row + i, lanes, sum);
  }
}

}  // namespace conclave::kernels::cpu

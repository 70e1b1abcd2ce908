#include "kernels/cpu/dot_product_avx512bf16.h"

#include <immintrin.h>

namespace conclave::kernels::cpu {

void DotProduct16(const uint32_t* a, const uint32_t* b, float* sums) {
  const __m512bh x = (__m512bh)_mm512_loadu_si512(a);
  const __m512bh y = (__m512bh)_mm512_loadu_si512(b);
  _mm512_storeu_ps(sums, _mm512_dpbf16_ps(_mm512_loadu_ps(sums), x, y));
}

}  // namespace conclave::kernels::cpu

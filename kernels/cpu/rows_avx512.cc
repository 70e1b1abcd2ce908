#include "kernels/cpu/rows_avx512.h"

#include <immintrin.h>

#include "kernels/cpu/functions_avx512.h"

namespace conclave::kernels::cpu {
namespace {

// The largest value; -infinity if there is none but NaN.
float Max(const float* values, int64_t count) {
  __m512 largest = _mm512_set1_ps(-__builtin_inff());
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    // With the new value first, a NaN loses against what is there.
    largest = _mm512_mask_max_ps(largest, lanes, _mm512_maskz_loadu_ps(lanes, values + i), largest);
  }
  return _mm512_reduce_max_ps(largest);
}

}  // namespace

void RoundRow(const float* input, int64_t count, int64_t padded, std::byte* output) {
  for (int64_t i = 0; i < padded; i += 16) {
    const __m512 x =
        i < count ? _mm512_maskz_loadu_ps(FirstLanes(count - i), input + i) : _mm512_setzero_ps();
    StoreBf16(output + 2 * i, FirstLanes(padded - i), ToBf16(x));
  }
}

void SiluMultiply(const float* gate, const float* up, int64_t count, float* output) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    const __m512 g = _mm512_maskz_loadu_ps(lanes, gate + i);
    const __m512 u = _mm512_maskz_loadu_ps(lanes, up + i);
    Store(output + i, lanes, _mm512_mul_ps(Silu(g), u));
  }
}

void SiluMultiply(const float* gate, const float* up, int64_t count, bf16* output) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    const __m512 g = _mm512_maskz_loadu_ps(lanes, gate + i);
    const __m512 u = _mm512_maskz_loadu_ps(lanes, up + i);
    StoreBf16(output + i, lanes, ToBf16(_mm512_mul_ps(Silu(g), u)));
  }
}

void AddTo(const float* bias, int64_t count, float* row) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    const __m512 sum = _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, row + i),
                                     _mm512_maskz_loadu_ps(lanes, bias + i));
    Store(row + i, lanes, sum);
  }
}

void AddRows(const float* a, const float* b, int64_t count, float* output) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    const __m512 sum =
        _mm512_add_ps(_mm512_maskz_loadu_ps(lanes, a + i), _mm512_maskz_loadu_ps(lanes, b + i));
    Store(output + i, lanes, sum);
  }
}

void ScaleRowBySigmoid(float score, int64_t count, float* row) {
  const __m512 factor = Sigmoid(_mm512_set1_ps(score));
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    Store(row + i, lanes, _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, row + i), factor));
  }
}

void NormRow(const float* input, const float* weight, float epsilon, int64_t count, float* output) {
  __m512 squares = _mm512_setzero_ps();
  for (int64_t i = 0; i < count; i += 16) {
    const __m512 x = _mm512_maskz_loadu_ps(FirstLanes(count - i), input + i);
    squares = _mm512_fmadd_ps(x, x, squares);
  }
  const float mean = SumLanes(squares) / static_cast<float>(count);
  const __m128 root = _mm_sqrt_ss(_mm_set_ss(mean + epsilon));
  const __m512 factor = _mm512_set1_ps(1.0f / _mm_cvtss_f32(root));
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    const __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, input + i), factor);
    Store(output + i, lanes, _mm512_mul_ps(x, _mm512_maskz_loadu_ps(lanes, weight + i)));
  }
}

void RotateInterleaved(const float* cos, const float* sin, int64_t num_pairs, float* head) {
  const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  const __m512i even_sign = _mm512_set1_epi64(0x80000000ll);  // of the lower, even element
  for (int64_t i = 0; i < num_pairs; i += 8) {
    const __mmask16 pairs = static_cast<__mmask16>(FirstLanes(num_pairs - i) & 0xff);
    const __mmask16 lanes = FirstLanes(2 * (num_pairs - i));
    const __m512 c = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(pairs, cos + i));
    const __m512 s = _mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(pairs, sin + i));
    const __m512 x = _mm512_maskz_loadu_ps(lanes, head + 2 * i);
    const __m512 crossed = _mm512_mul_ps(_mm512_permute_ps(x, 0xb1), s);  // (b * sin, a * sin)
    const __m512 term =
        _mm512_castsi512_ps(_mm512_xor_si512(_mm512_castps_si512(crossed), even_sign));
    Store(head + 2 * i, lanes, _mm512_fmadd_ps(x, c, term));
  }
}

void RotateHalves(const float* cos, const float* sin, int64_t num_pairs, float* head) {
  for (int64_t i = 0; i < num_pairs; i += 16) {
    const __mmask16 lanes = FirstLanes(num_pairs - i);
    const __m512 c = _mm512_maskz_loadu_ps(lanes, cos + i);
    const __m512 s = _mm512_maskz_loadu_ps(lanes, sin + i);
    const __m512 a = _mm512_maskz_loadu_ps(lanes, head + i);
    const __m512 b = _mm512_maskz_loadu_ps(lanes, head + num_pairs + i);
    Store(head + i, lanes, _mm512_fmadd_ps(a, c, Negate(_mm512_mul_ps(b, s))));
    Store(head + num_pairs + i, lanes, _mm512_fmadd_ps(b, c, _mm512_mul_ps(a, s)));
  }
}

void CombineRows(const float* rows, int64_t stride, const float* weights, int64_t num_rows,
                 int64_t count, float* accumulator) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    __m512 sum = _mm512_maskz_loadu_ps(lanes, accumulator + i);
    for (int64_t j = 0; j < num_rows; ++j) {
      sum = _mm512_fmadd_ps(_mm512_set1_ps(weights[j]),
                            _mm512_maskz_loadu_ps(lanes, rows + j * stride + i), sum);
    }
    Store(accumulator + i, lanes, sum);
  }
}

void SoftmaxScores(const float* logits, int64_t count, float* scores) {
  const __m512 shift = _mm512_set1_ps(Max(logits, count));
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    const __m512 x = _mm512_sub_ps(_mm512_maskz_loadu_ps(lanes, logits + i), shift);
    const __m512 e = _mm512_maskz_mov_ps(lanes, Exp(x));
    Store(scores + i, lanes, e);
    sum = _mm512_add_ps(sum, e);
  }
  const __m512 total = _mm512_set1_ps(SumLanes(sum));
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    Store(scores + i, lanes, _mm512_div_ps(_mm512_maskz_loadu_ps(lanes, scores + i), total));
  }
}

void SigmoidScores(const float* logits, int64_t count, float* scores) {
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    Store(scores + i, lanes, Sigmoid(_mm512_maskz_loadu_ps(lanes, logits + i)));
  }
}

int64_t IndexOfMax(const float* values, int64_t count) {
  const __m512 largest = _mm512_set1_ps(Max(values, count));
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    const __mmask16 found = _mm512_mask_cmp_ps_mask(lanes, _mm512_maskz_loadu_ps(lanes, values + i),
                                                    largest, _CMP_EQ_OQ);
    if (found != 0) return i + __builtin_ctz(found);
  }
  return 0;
}

}  // namespace conclave::kernels::cpu

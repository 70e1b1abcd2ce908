#include "kernels/cpu/softmax_avx512.h"

#include <immintrin.h>

#include "kernels/cpu/functions_avx512.h"

namespace conclave::kernels::cpu {
namespace {

// The lanes of the vector at `first` that are in [begin, end).
__mmask16 VisibleLanes(int64_t first, const SegmentRange& range) {
  const __mmask16 before_end = range.end <= first ? 0 : FirstLanes(range.end - first);
  const __mmask16 before_begin = range.begin <= first ? 0 : FirstLanes(range.begin - first);
  return static_cast<__mmask16>(before_end & ~before_begin);
}

float MaxLanes(__m512 x) { return _mm512_reduce_max_ps(x); }

float Exp1(float x) { return _mm512_cvtss_f32(Exp(_mm512_set1_ps(x))); }

}  // namespace

SegmentSum SoftmaxSegment(WeightFormat format, const SegmentRange& range, float scale,
                          float* scores, std::byte* probabilities) {
  const __m512 factor = _mm512_set1_ps(scale);
  __m512 largest = _mm512_set1_ps(-__builtin_inff());
  for (int64_t i = range.begin / 16 * 16; i < range.end; i += 16) {
    const __m512 score = _mm512_mul_ps(_mm512_load_ps(scores + i), factor);
    _mm512_store_ps(scores + i, score);
    // With the new score first, a NaN loses against what is there.
    largest = _mm512_mask_max_ps(largest, VisibleLanes(i, range), score, largest);
  }
  const float max = MaxLanes(largest);
  const __m512 shift = _mm512_set1_ps(max);
  __m512 sum = _mm512_setzero_ps();
  for (int64_t i = range.first; i < range.last; i += 16) {
    const __mmask16 visible = VisibleLanes(i, range);
    __m512 p = _mm512_setzero_ps();
    if (visible != 0) {
      p = _mm512_maskz_mov_ps(visible, Exp(_mm512_sub_ps(_mm512_load_ps(scores + i), shift)));
    }
    if (format == WeightFormat::kF32) {
      _mm512_store_ps(reinterpret_cast<float*>(probabilities) + i, p);
    } else {
      const __m256i rounded = ToBf16(p);
      _mm256_store_si256(reinterpret_cast<__m256i*>(probabilities + 2 * i), rounded);
      p = WidenBf16(rounded);
    }
    sum = _mm512_add_ps(sum, p);
  }
  return {max, SumLanes(sum)};
}

void MergeSegment(bool first, const SegmentSum& segment, const float* values, int64_t columns,
                  RunningRow& row) {
  const __m512 zero = _mm512_setzero_ps();
  if (first) {
    for (int64_t d = 0; d < columns; d += 16) {
      _mm512_store_ps(row.values + d, _mm512_add_ps(_mm512_load_ps(values + d), zero));
    }
    row.max = segment.max;
    row.sum = segment.sum;
    return;
  }
  const float merged = row.max < segment.max ? segment.max : row.max;
  const __m512 a = _mm512_set1_ps(Exp1(row.max - merged));
  const __m512 b = _mm512_set1_ps(Exp1(segment.max - merged));
  for (int64_t d = 0; d < columns; d += 16) {
    const __m512 value = _mm512_add_ps(_mm512_load_ps(values + d), zero);
    _mm512_store_ps(row.values + d,
                    _mm512_fmadd_ps(value, b, _mm512_mul_ps(_mm512_load_ps(row.values + d), a)));
  }
  const __m512 sum =
      _mm512_fmadd_ps(_mm512_set1_ps(segment.sum), b, _mm512_mul_ps(_mm512_set1_ps(row.sum), a));
  row.sum = _mm512_cvtss_f32(sum);
  row.max = merged;
}

void FinishRow(const float* sink, RunningRow& row, int64_t count, float* output) {
  __m512 factor = _mm512_set1_ps(1.0f);
  if (sink != nullptr) {
    const float merged = row.max < *sink ? *sink : row.max;
    const float a = Exp1(row.max - merged);
    factor = _mm512_set1_ps(a);
    row.sum = row.sum * a + Exp1(*sink - merged);
    row.max = merged;
  }
  const __m512 inverse = _mm512_set1_ps(1.0f / row.sum);
  for (int64_t d = 0; d < count; d += 16) {
    const __m512 value = _mm512_mul_ps(_mm512_load_ps(row.values + d), factor);
    Store(output + d, FirstLanes(count - d), _mm512_mul_ps(value, inverse));
  }
}

}  // namespace conclave::kernels::cpu

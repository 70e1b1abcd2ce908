#include "kernels/cpu/quantize_avx512.h"

#include <immintrin.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/cpu/functions_avx512.h"
#include "kernels/quantize.h"

namespace conclave::kernels::cpu {
namespace {

// In magnitude; not finite if a value is not. As integers magnitudes have the order of floats, and
// infinity and NaN are above all others.
float Largest(std::span<const float> values) {
  const auto count = std::ssize(values);
  __m512i largest = _mm512_setzero_si512();
  for (int64_t i = 0; i < count; i += 16) {
    const __m512i bits = _mm512_maskz_loadu_epi32(FirstLanes(count - i), values.data() + i);
    largest = _mm512_max_epu32(largest, _mm512_and_si512(bits, _mm512_set1_epi32(0x7fffffff)));
  }
  return std::bit_cast<float>(_mm512_reduce_max_epu32(largest));
}

// The 16 integers of clamp(rint(x * inverse), -8, 7), as floats.
__m512 Int4Lanes(__m512 x, __m512 inverse) {
  const __m512 rounded = _mm512_roundscale_ps(_mm512_mul_ps(x, inverse),
                                              _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  return _mm512_min_ps(_mm512_max_ps(rounded, _mm512_set1_ps(-8)), _mm512_set1_ps(7));
}

// A sum in 16 lanes of f64, lanes 0 to 7 and 8 to 15.
struct LaneSums {
  __m512d low = _mm512_setzero_pd(), high = _mm512_setzero_pd();

  void AddProducts(__m512 a, __m512 b) {
    low = _mm512_add_pd(low, _mm512_mul_pd(Low(a), Low(b)));
    high = _mm512_add_pd(high, _mm512_mul_pd(High(a), High(b)));
  }
  // The halving tree of docs/numerics.md, "Sums in 16 lanes".
  double Total() const {
    alignas(64) double lanes[8];
    _mm512_store_pd(lanes, _mm512_add_pd(low, high));
    for (int half = 4; half > 0; half /= 2) {
      for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
    }
    return lanes[0];
  }

 private:
  static __m512d Low(__m512 x) { return _mm512_cvtps_pd(_mm512_castps512_ps256(x)); }
  static __m512d High(__m512 x) { return _mm512_cvtps_pd(_mm512_extractf32x8_ps(x, 1)); }
};

float QuantizeInt4(std::span<const float> values, float largest, int8_t* quantized) {
  const auto count = std::ssize(values);
  const float extreme =
      *std::ranges::find_if(values, [largest](float value) { return std::fabs(value) == largest; });
  double best_fit = -1;
  float best_scale = 0, best_inverse = 0;
  for (int quarter = -6; quarter <= 6; ++quarter) {
    const float inverse = (-8.0f - 0.25f * static_cast<float>(quarter)) / extreme;
    LaneSums products, squares;
    for (int64_t i = 0; i < count; i += 16) {
      const __m512 x = _mm512_maskz_loadu_ps(FirstLanes(count - i), values.data() + i);
      const __m512 integers = Int4Lanes(x, _mm512_set1_ps(inverse));
      products.AddProducts(x, integers);
      squares.AddProducts(integers, integers);
    }
    const double product = products.Total(), square = squares.Total();
    const double fit = product * product / square;
    if (fit > best_fit) {
      best_fit = fit;
      best_scale = static_cast<float>(product / square);
      best_inverse = inverse;
    }
  }
  for (int64_t i = 0; i < count; i += 16) {
    const __mmask16 lanes = FirstLanes(count - i);
    const __m512 x = _mm512_maskz_loadu_ps(lanes, values.data() + i);
    const __m512i integers = _mm512_cvtps_epi32(Int4Lanes(x, _mm512_set1_ps(best_inverse)));
    _mm512_mask_cvtepi32_storeu_epi8(quantized + i, lanes, integers);
  }
  return best_scale;
}

}  // namespace

float QuantizeInt8(std::span<const float> values, int64_t padded, int8_t* quantized, int32_t* sum) {
  const auto count = std::ssize(values);
  const float largest = Largest(values);
  const bool finite = std::isfinite(largest);
  const bool any = finite && largest >= kZeroBelow;
  const __m512 inverse = _mm512_set1_ps(any ? 127.0f / largest : 0.0f);
  __m512i sums = _mm512_setzero_si512();
  for (int64_t i = 0; i < padded; i += 16) {
    const __mmask16 lanes = any && i < count ? FirstLanes(count - i) : __mmask16{0};
    const __m512 x = _mm512_mul_ps(_mm512_maskz_loadu_ps(lanes, values.data() + i), inverse);
    const __m512i integers = _mm512_cvtps_epi32(x);
    sums = _mm512_add_epi32(sums, integers);
    _mm512_mask_cvtepi32_storeu_epi8(quantized + i, FirstLanes(padded - i), integers);
  }
  *sum = _mm512_reduce_add_epi32(sums);
  return any ? largest / 127.0f : finite ? 0.0f : std::numeric_limits<float>::quiet_NaN();
}

float QuantizeGroup(WeightType type, std::span<const float> values, int8_t* quantized) {
  const float largest = Largest(values);
  if (type == WeightType::kInt8 || !std::isfinite(largest) || largest < kZeroBelow) {
    int32_t sum;
    return QuantizeInt8(values, std::ssize(values), quantized, &sum);
  }
  return QuantizeInt4(values, largest, quantized);
}

}  // namespace conclave::kernels::cpu

// 16 floats, integers and bits in registers of AVX-512. Included only by files compiled for it;
// everything has internal linkage. lanes_avx2.h has the same for AVX2.
#pragma once

#include <immintrin.h>

#include <cstdint>

#include "kernels/cpu/lanes.h"

namespace conclave::kernels::cpu {
namespace {

struct Mask512 {
  __mmask16 lanes;

  static Mask512 FromBits(uint32_t bits) { return {static_cast<__mmask16>(bits)}; }
  uint32_t bits() const { return lanes; }
};

struct Floats512;

// Signed or unsigned integers of 32 bits.
struct Ints512 {
  __m512i v;

  static Ints512 Zero() { return {_mm512_setzero_si512()}; }
  static Ints512 Of(int32_t x) { return {_mm512_set1_epi32(x)}; }
  static Ints512 Ascending() {  // 0, 1, ...
    return {_mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0)};
  }
  Floats512 floats() const;  // of the same bits

  template <int kBits>
  Ints512 ShiftLeft() const {
    return {_mm512_slli_epi32(v, kBits)};
  }
  template <int kBits>
  Ints512 ShiftRight() const {  // zeros come in
    return {_mm512_srli_epi32(v, kBits)};
  }
  int32_t SumLanes() const { return _mm512_reduce_add_epi32(v); }
  uint32_t MaxLanesUnsigned() const { return _mm512_reduce_max_epu32(v); }

  // The low 16 or 8 bits of the lanes, side by side; the mask is of the first ones.
  void StoreWords(void* to, AllLanes) const {
    _mm256_storeu_si256(static_cast<__m256i*>(to), _mm512_cvtepi32_epi16(v));
  }
  void StoreWords(void* to, Mask512 mask) const {
    _mm256_mask_storeu_epi16(to, mask.lanes, _mm512_cvtepi32_epi16(v));
  }
  void StoreBytes(int8_t* to, AllLanes) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), _mm512_cvtepi32_epi8(v));
  }
  void StoreBytes(int8_t* to, Mask512 mask) const {
    _mm512_mask_cvtepi32_storeu_epi8(to, mask.lanes, v);
  }
  // The lanes of the mask, one after the other.
  void StoreChosen(int32_t* to, Mask512 mask) const {
    // Compressed in the register: a compressing store is slow on some processors.
    const uint32_t first = FirstLanes(__builtin_popcount(mask.lanes));
    _mm512_mask_storeu_epi32(to, static_cast<__mmask16>(first),
                             _mm512_maskz_compress_epi32(mask.lanes, v));
  }

  friend Ints512 operator+(Ints512 a, Ints512 b) { return {_mm512_add_epi32(a.v, b.v)}; }
  friend Ints512 operator&(Ints512 a, Ints512 b) { return {_mm512_and_si512(a.v, b.v)}; }
  friend Ints512 operator|(Ints512 a, Ints512 b) { return {_mm512_or_si512(a.v, b.v)}; }
  friend Ints512 operator^(Ints512 a, Ints512 b) { return {_mm512_xor_si512(a.v, b.v)}; }
  friend Ints512 LargerUnsigned(Ints512 a, Ints512 b) { return {_mm512_max_epu32(a.v, b.v)}; }
  friend Ints512 Select(Mask512 mask, Ints512 a, Ints512 b) {  // a where the mask is set
    return {_mm512_mask_mov_epi32(b.v, mask.lanes, a.v)};
  }
};

// Unsigned integers of 64 bits.
struct Longs512 {
  __m512i low, high;

  static Longs512 Zero() { return {_mm512_setzero_si512(), _mm512_setzero_si512()}; }
  uint64_t SumLanes() const {
    return static_cast<uint64_t>(_mm512_reduce_add_epi64(_mm512_add_epi64(low, high)));
  }
  void Store(uint64_t* to, AllLanes) const {
    _mm512_storeu_si512(to, low);
    _mm512_storeu_si512(to + 8, high);
  }
  void Store(uint64_t* to, Mask512 mask) const {
    _mm512_mask_storeu_epi64(to, static_cast<__mmask8>(mask.lanes), low);
    _mm512_mask_storeu_epi64(to + 8, static_cast<__mmask8>(mask.lanes >> 8), high);
  }
  friend Longs512 operator+(Longs512 a, Longs512 b) {
    return {_mm512_add_epi64(a.low, b.low), _mm512_add_epi64(a.high, b.high)};
  }
};

struct Doubles512 {
  __m512d low, high;

  static Doubles512 Zero() { return {_mm512_setzero_pd(), _mm512_setzero_pd()}; }
  static Doubles512 Of(double x) { return {_mm512_set1_pd(x), _mm512_set1_pd(x)}; }
  // Towards zero. Precondition: every lane is in [0, 2^52).
  Longs512 Truncated() const { return {_mm512_cvttpd_epu64(low), _mm512_cvttpd_epu64(high)}; }
  // The halving tree of docs/numerics.md, "Sums in 16 lanes".
  double SumLanes() const {
    alignas(64) double lanes[8];
    _mm512_store_pd(lanes, _mm512_add_pd(low, high));
    for (int half = 4; half > 0; half /= 2) {
      for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
    }
    return lanes[0];
  }
  friend Doubles512 operator+(Doubles512 a, Doubles512 b) {
    return {_mm512_add_pd(a.low, b.low), _mm512_add_pd(a.high, b.high)};
  }
  friend Doubles512 operator*(Doubles512 a, Doubles512 b) {
    return {_mm512_mul_pd(a.low, b.low), _mm512_mul_pd(a.high, b.high)};
  }
};

struct Floats512 {
  using Mask = Mask512;
  using Ints = Ints512;
  using Doubles = Doubles512;
  using Longs = Longs512;

  __m512 v;

  static Floats512 Zero() { return {_mm512_setzero_ps()}; }
  static Floats512 Of(float x) { return {_mm512_set1_ps(x)}; }
  static Floats512 Load(const float* from, AllLanes = {}) { return {_mm512_loadu_ps(from)}; }
  static Floats512 Load(const float* from, Mask512 mask) {  // +0 elsewhere, which is not read
    return {_mm512_maskz_loadu_ps(mask.lanes, from)};
  }
  static Floats512 LoadTwice(const float* from, Mask512 mask) {  // 8 floats: a, a, b, b, ...
    const __m512i twice = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    return {_mm512_permutexvar_ps(twice, _mm512_maskz_loadu_ps(mask.lanes, from))};
  }
  void Store(float* to, AllLanes = {}) const { _mm512_storeu_ps(to, v); }
  void Store(float* to, Mask512 mask) const { _mm512_mask_storeu_ps(to, mask.lanes, v); }
  void StoreChosen(float* to, Mask512 mask) const {  // as that of Ints512
    const uint32_t first = FirstLanes(__builtin_popcount(mask.lanes));
    _mm512_mask_storeu_ps(to, static_cast<__mmask16>(first),
                          _mm512_maskz_compress_ps(mask.lanes, v));
  }

  Ints512 bits() const { return {_mm512_castps_si512(v)}; }
  Ints512 RoundedToInts() const { return {_mm512_cvtps_epi32(v)}; }  // nearest even
  Floats512 Rounded() const {                                        // nearest even
    return {_mm512_roundscale_ps(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  Doubles512 doubles() const {
    return {_mm512_cvtps_pd(_mm512_castps512_ps256(v)),
            _mm512_cvtps_pd(_mm512_extractf32x8_ps(v, 1))};
  }
  Floats512 PairsSwapped() const { return {_mm512_permute_ps(v, 0xb1)}; }  // b, a, d, c, ...
  float first() const { return _mm512_cvtss_f32(v); }
  float MaxLanes() const { return _mm512_reduce_max_ps(v); }  // no lane is NaN
  // The halving tree of docs/numerics.md, "Sums in 16 lanes".
  float SumLanes() const {
    const __m256 high8 = _mm512_extractf32x8_ps(v, 1);
    const __m256 s8 = _mm256_add_ps(_mm512_castps512_ps256(v), high8);
    const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
  }

  friend Floats512 operator+(Floats512 a, Floats512 b) { return {_mm512_add_ps(a.v, b.v)}; }
  friend Floats512 operator-(Floats512 a, Floats512 b) { return {_mm512_sub_ps(a.v, b.v)}; }
  friend Floats512 operator*(Floats512 a, Floats512 b) { return {_mm512_mul_ps(a.v, b.v)}; }
  friend Floats512 operator/(Floats512 a, Floats512 b) { return {_mm512_div_ps(a.v, b.v)}; }
  friend Floats512 Fma(Floats512 a, Floats512 b, Floats512 c) {
    return {_mm512_fmadd_ps(a.v, b.v, c.v)};
  }
  // b where either is NaN.
  friend Floats512 Larger(Floats512 a, Floats512 b) { return {_mm512_max_ps(a.v, b.v)}; }
  friend Floats512 Smaller(Floats512 a, Floats512 b) { return {_mm512_min_ps(a.v, b.v)}; }
  // False where either is NaN.
  friend Mask512 Less(Floats512 a, Floats512 b) {
    return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LT_OQ)};
  }
  friend Mask512 LessOrEqual(Floats512 a, Floats512 b) {
    return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_LE_OQ)};
  }
  friend Mask512 Equal(Floats512 a, Floats512 b) {
    return {_mm512_cmp_ps_mask(a.v, b.v, _CMP_EQ_OQ)};
  }
  friend Mask512 IsNan(Floats512 a) { return {_mm512_cmp_ps_mask(a.v, a.v, _CMP_UNORD_Q)}; }
  friend Floats512 Select(Mask512 mask, Floats512 a, Floats512 b) {  // a where the mask is set
    return {_mm512_mask_mov_ps(b.v, mask.lanes, a.v)};
  }
};

inline Floats512 Ints512::floats() const { return {_mm512_castsi512_ps(v)}; }

}  // namespace
}  // namespace conclave::kernels::cpu

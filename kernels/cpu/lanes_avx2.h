// 16 floats, integers and bits in pairs of registers of AVX2. Included only by files compiled for
// it; everything has internal linkage. lanes_avx512.h has the same for AVX-512.
#pragma once

#include <immintrin.h>

#include <cstdint>
#include <cstring>

#include "kernels/cpu/lanes.h"

namespace conclave::kernels::cpu {
namespace {

struct Mask256 {
  __m256i low, high;  // of a lane all bits or none

  static Mask256 FromBits(uint32_t bits) {
    const __m256i all = _mm256_set1_epi32(static_cast<int>(bits));
    const __m256i low_bits = _mm256_setr_epi32(1, 2, 4, 8, 16, 32, 64, 128);
    const __m256i high_bits = _mm256_slli_epi32(low_bits, 8);
    return {_mm256_cmpeq_epi32(_mm256_and_si256(all, low_bits), low_bits),
            _mm256_cmpeq_epi32(_mm256_and_si256(all, high_bits), high_bits)};
  }
  static Mask256 Of(__m256 low, __m256 high) {
    return {_mm256_castps_si256(low), _mm256_castps_si256(high)};
  }
  uint32_t bits() const {
    return static_cast<uint32_t>(_mm256_movemask_ps(_mm256_castsi256_ps(low)) |
                                 _mm256_movemask_ps(_mm256_castsi256_ps(high)) << 8);
  }
  int count() const { return __builtin_popcount(bits()); }
};

struct Floats256;

// Signed or unsigned integers of 32 bits.
struct Ints256 {
  __m256i low, high;

  static Ints256 Zero() { return {_mm256_setzero_si256(), _mm256_setzero_si256()}; }
  static Ints256 Of(int32_t x) { return {_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
  static Ints256 Ascending() {  // 0, 1, ...
    return {_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
            _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15)};
  }
  Floats256 floats() const;  // of the same bits

  template <int kBits>
  Ints256 ShiftLeft() const {
    return {_mm256_slli_epi32(low, kBits), _mm256_slli_epi32(high, kBits)};
  }
  template <int kBits>
  Ints256 ShiftRight() const {  // zeros come in
    return {_mm256_srli_epi32(low, kBits), _mm256_srli_epi32(high, kBits)};
  }
  int32_t SumLanes() const {
    alignas(32) int32_t lanes[8];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), _mm256_add_epi32(low, high));
    int32_t sum = 0;
    for (const int32_t lane : lanes) sum += lane;
    return sum;
  }
  uint32_t MaxLanesUnsigned() const {
    const __m256i m8 = _mm256_max_epu32(low, high);
    __m128i m = _mm_max_epu32(_mm256_castsi256_si128(m8), _mm256_extracti128_si256(m8, 1));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0x4e));
    m = _mm_max_epu32(m, _mm_shuffle_epi32(m, 0xb1));
    return static_cast<uint32_t>(_mm_cvtsi128_si32(m));
  }

  // The low 16 or 8 bits of the lanes, side by side; the mask is of the first ones.
  void StoreWords(void* to, AllLanes) const {
    _mm256_storeu_si256(static_cast<__m256i*>(to), Words());
  }
  void StoreWords(void* to, Mask256 mask) const {
    alignas(32) char words[32];
    _mm256_store_si256(reinterpret_cast<__m256i*>(words), Words());
    std::memcpy(to, words, static_cast<size_t>(2 * mask.count()));
  }
  void StoreBytes(int8_t* to, AllLanes) const {
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to), Bytes());
  }
  void StoreBytes(int8_t* to, Mask256 mask) const {
    alignas(16) char bytes[16];
    _mm_store_si128(reinterpret_cast<__m128i*>(bytes), Bytes());
    std::memcpy(to, bytes, static_cast<size_t>(mask.count()));
  }
  // The lanes of the mask, one after the other.
  void StoreChosen(int32_t* to, Mask256 mask) const {
    alignas(32) int32_t lanes[16];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), low);
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes + 8), high);
    for (uint32_t bits = mask.bits(); bits != 0; bits &= bits - 1) {
      *to++ = lanes[__builtin_ctz(bits)];
    }
  }

  friend Ints256 operator+(Ints256 a, Ints256 b) {
    return {_mm256_add_epi32(a.low, b.low), _mm256_add_epi32(a.high, b.high)};
  }
  friend Ints256 operator&(Ints256 a, Ints256 b) {
    return {_mm256_and_si256(a.low, b.low), _mm256_and_si256(a.high, b.high)};
  }
  friend Ints256 operator|(Ints256 a, Ints256 b) {
    return {_mm256_or_si256(a.low, b.low), _mm256_or_si256(a.high, b.high)};
  }
  friend Ints256 operator^(Ints256 a, Ints256 b) {
    return {_mm256_xor_si256(a.low, b.low), _mm256_xor_si256(a.high, b.high)};
  }
  friend Ints256 LargerUnsigned(Ints256 a, Ints256 b) {
    return {_mm256_max_epu32(a.low, b.low), _mm256_max_epu32(a.high, b.high)};
  }
  friend Ints256 Select(Mask256 mask, Ints256 a, Ints256 b) {  // a where the mask is set
    return {_mm256_blendv_epi8(b.low, a.low, mask.low),
            _mm256_blendv_epi8(b.high, a.high, mask.high)};
  }

 private:
  // Packing works in halves of a register: the quarters are put in order after it.
  __m256i Words() const {
    const __m256i mask = _mm256_set1_epi32(0xffff);
    const __m256i words =
        _mm256_packus_epi32(_mm256_and_si256(low, mask), _mm256_and_si256(high, mask));
    return _mm256_permute4x64_epi64(words, 0xd8);
  }
  __m128i Bytes() const {
    const __m256i words = _mm256_and_si256(Words(), _mm256_set1_epi16(0xff));
    return _mm_packus_epi16(_mm256_castsi256_si128(words), _mm256_extracti128_si256(words, 1));
  }
};

// Unsigned integers of 64 bits.
struct Longs256 {
  __m256i quarters[4];

  static Longs256 Zero() {
    const __m256i zero = _mm256_setzero_si256();
    return {{zero, zero, zero, zero}};
  }
  uint64_t SumLanes() const {
    alignas(32) uint64_t lanes[4];
    _mm256_store_si256(reinterpret_cast<__m256i*>(lanes),
                       _mm256_add_epi64(_mm256_add_epi64(quarters[0], quarters[1]),
                                        _mm256_add_epi64(quarters[2], quarters[3])));
    return lanes[0] + lanes[1] + lanes[2] + lanes[3];
  }
  void Store(uint64_t* to, AllLanes) const {
    for (int q = 0; q < 4; ++q) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(to + 4 * q), quarters[q]);
    }
  }
  void Store(uint64_t* to, Mask256 mask) const {  // of the first lanes
    uint64_t lanes[16];
    Store(lanes, AllLanes{});
    std::memcpy(to, lanes, static_cast<size_t>(mask.count()) * sizeof(uint64_t));
  }
  friend Longs256 operator+(Longs256 a, const Longs256& b) {
    for (int q = 0; q < 4; ++q) a.quarters[q] = _mm256_add_epi64(a.quarters[q], b.quarters[q]);
    return a;
  }
};

struct Doubles256 {
  __m256d quarters[4];

  static Doubles256 Zero() { return Of(0); }
  static Doubles256 Of(double x) {
    const __m256d all = _mm256_set1_pd(x);
    return {{all, all, all, all}};
  }
  // Towards zero. Precondition: every lane is in [0, 2^52): beside 2^52 its integer is the low
  // bits.
  Longs256 Truncated() const {
    const __m256d magic = _mm256_set1_pd(0x1p+52);
    Longs256 result;
    for (int q = 0; q < 4; ++q) {
      const __m256d sum = _mm256_add_pd(_mm256_floor_pd(quarters[q]), magic);
      result.quarters[q] = _mm256_castpd_si256(_mm256_xor_pd(sum, magic));
    }
    return result;
  }
  // The halving tree of docs/numerics.md, "Sums in 16 lanes".
  double SumLanes() const {
    const __m256d s4 = _mm256_add_pd(_mm256_add_pd(quarters[0], quarters[2]),
                                     _mm256_add_pd(quarters[1], quarters[3]));
    const __m128d s2 = _mm_add_pd(_mm256_castpd256_pd128(s4), _mm256_extractf128_pd(s4, 1));
    return _mm_cvtsd_f64(_mm_add_sd(s2, _mm_unpackhi_pd(s2, s2)));
  }
  friend Doubles256 operator+(Doubles256 a, const Doubles256& b) {
    for (int q = 0; q < 4; ++q) a.quarters[q] = _mm256_add_pd(a.quarters[q], b.quarters[q]);
    return a;
  }
  friend Doubles256 operator*(Doubles256 a, const Doubles256& b) {
    for (int q = 0; q < 4; ++q) a.quarters[q] = _mm256_mul_pd(a.quarters[q], b.quarters[q]);
    return a;
  }
};

struct Floats256 {
  using Mask = Mask256;
  using Ints = Ints256;
  using Doubles = Doubles256;
  using Longs = Longs256;

  __m256 low, high;

  static Floats256 Zero() { return {_mm256_setzero_ps(), _mm256_setzero_ps()}; }
  static Floats256 Of(float x) { return {_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
  static Floats256 Load(const float* from, AllLanes = {}) {
    return {_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)};
  }
  static Floats256 Load(const float* from, Mask256 mask) {  // +0 elsewhere, which is not read
    return {_mm256_maskload_ps(from, mask.low), _mm256_maskload_ps(from + 8, mask.high)};
  }
  static Floats256 LoadTwice(const float* from, Mask256 mask) {  // 8 floats: a, a, b, b, ...
    const __m256 x = _mm256_maskload_ps(from, mask.low);
    return {_mm256_permutevar8x32_ps(x, _mm256_setr_epi32(0, 0, 1, 1, 2, 2, 3, 3)),
            _mm256_permutevar8x32_ps(x, _mm256_setr_epi32(4, 4, 5, 5, 6, 6, 7, 7))};
  }
  void Store(float* to, AllLanes = {}) const {
    _mm256_storeu_ps(to, low);
    _mm256_storeu_ps(to + 8, high);
  }
  void Store(float* to, Mask256 mask) const {
    _mm256_maskstore_ps(to, mask.low, low);
    _mm256_maskstore_ps(to + 8, mask.high, high);
  }
  void StoreChosen(float* to, Mask256 mask) const {  // as that of Ints256
    alignas(32) float lanes[16];
    Store(lanes);
    for (uint32_t bits = mask.bits(); bits != 0; bits &= bits - 1) {
      *to++ = lanes[__builtin_ctz(bits)];
    }
  }

  Ints256 bits() const { return {_mm256_castps_si256(low), _mm256_castps_si256(high)}; }
  Ints256 RoundedToInts() const {  // nearest even
    return {_mm256_cvtps_epi32(low), _mm256_cvtps_epi32(high)};
  }
  Floats256 Rounded() const {  // nearest even
    constexpr int kNearest = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;
    return {_mm256_round_ps(low, kNearest), _mm256_round_ps(high, kNearest)};
  }
  Doubles256 doubles() const {
    return {{_mm256_cvtps_pd(_mm256_castps256_ps128(low)),
             _mm256_cvtps_pd(_mm256_extractf128_ps(low, 1)),
             _mm256_cvtps_pd(_mm256_castps256_ps128(high)),
             _mm256_cvtps_pd(_mm256_extractf128_ps(high, 1))}};
  }
  Floats256 PairsSwapped() const {  // b, a, d, c, ...
    return {_mm256_permute_ps(low, 0xb1), _mm256_permute_ps(high, 0xb1)};
  }
  float first() const { return _mm256_cvtss_f32(low); }
  float MaxLanes() const {  // no lane is NaN
    const __m256 m8 = _mm256_max_ps(low, high);
    __m128 m = _mm_max_ps(_mm256_castps256_ps128(m8), _mm256_extractf128_ps(m8, 1));
    m = _mm_max_ps(m, _mm_movehl_ps(m, m));
    return _mm_cvtss_f32(_mm_max_ss(m, _mm_shuffle_ps(m, m, 1)));
  }
  // The halving tree of docs/numerics.md, "Sums in 16 lanes".
  float SumLanes() const {
    const __m256 s8 = _mm256_add_ps(low, high);
    const __m128 s4 = _mm_add_ps(_mm256_castps256_ps128(s8), _mm256_extractf128_ps(s8, 1));
    const __m128 s2 = _mm_add_ps(s4, _mm_movehl_ps(s4, s4));
    return _mm_cvtss_f32(_mm_add_ss(s2, _mm_shuffle_ps(s2, s2, 1)));
  }

  friend Floats256 operator+(Floats256 a, Floats256 b) {
    return {_mm256_add_ps(a.low, b.low), _mm256_add_ps(a.high, b.high)};
  }
  friend Floats256 operator-(Floats256 a, Floats256 b) {
    return {_mm256_sub_ps(a.low, b.low), _mm256_sub_ps(a.high, b.high)};
  }
  friend Floats256 operator*(Floats256 a, Floats256 b) {
    return {_mm256_mul_ps(a.low, b.low), _mm256_mul_ps(a.high, b.high)};
  }
  friend Floats256 operator/(Floats256 a, Floats256 b) {
    return {_mm256_div_ps(a.low, b.low), _mm256_div_ps(a.high, b.high)};
  }
  friend Floats256 Fma(Floats256 a, Floats256 b, Floats256 c) {
    return {_mm256_fmadd_ps(a.low, b.low, c.low), _mm256_fmadd_ps(a.high, b.high, c.high)};
  }
  // b where either is NaN.
  friend Floats256 Larger(Floats256 a, Floats256 b) {
    return {_mm256_max_ps(a.low, b.low), _mm256_max_ps(a.high, b.high)};
  }
  friend Floats256 Smaller(Floats256 a, Floats256 b) {
    return {_mm256_min_ps(a.low, b.low), _mm256_min_ps(a.high, b.high)};
  }
  // False where either is NaN.
  friend Mask256 Less(Floats256 a, Floats256 b) {
    return Mask256::Of(_mm256_cmp_ps(a.low, b.low, _CMP_LT_OQ),
                       _mm256_cmp_ps(a.high, b.high, _CMP_LT_OQ));
  }
  friend Mask256 LessOrEqual(Floats256 a, Floats256 b) {
    return Mask256::Of(_mm256_cmp_ps(a.low, b.low, _CMP_LE_OQ),
                       _mm256_cmp_ps(a.high, b.high, _CMP_LE_OQ));
  }
  friend Mask256 Equal(Floats256 a, Floats256 b) {
    return Mask256::Of(_mm256_cmp_ps(a.low, b.low, _CMP_EQ_OQ),
                       _mm256_cmp_ps(a.high, b.high, _CMP_EQ_OQ));
  }
  friend Mask256 IsNan(Floats256 a) {
    return Mask256::Of(_mm256_cmp_ps(a.low, a.low, _CMP_UNORD_Q),
                       _mm256_cmp_ps(a.high, a.high, _CMP_UNORD_Q));
  }
  friend Floats256 Select(Mask256 mask, Floats256 a, Floats256 b) {  // a where the mask is set
    return {_mm256_blendv_ps(b.low, a.low, _mm256_castsi256_ps(mask.low)),
            _mm256_blendv_ps(b.high, a.high, _mm256_castsi256_ps(mask.high))};
  }
};

inline Floats256 Ints256::floats() const {
  return {_mm256_castsi256_ps(low), _mm256_castsi256_ps(high)};
}

}  // namespace
}  // namespace conclave::kernels::cpu

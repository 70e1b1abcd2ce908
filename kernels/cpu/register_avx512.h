// A register of AVX-512, for the tiles of kernels/cpu/tile_sums.h. Included only by files compiled
// for it; internal linkage.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace conclave::kernels::cpu {
namespace {

struct Register512 {
  using Floats = __m512;
  using Ints = __m512i;
  static constexpr int kLanes = 16;
  static constexpr int kCount = 32;

  // Panels of a tile of 1, 2, ... rows, of integers from the cache, and where sums and dots both
  // fit the registers beside inputs and weights.
  static constexpr int kWidePanels[6] = {8, 8, 8, 4, 4, 4};
  static constexpr int kNarrowPanels = 2;
  static constexpr int kMostDotsBesideSums = 12;

  static Floats Zero() { return _mm512_setzero_ps(); }
  static Floats Load(const std::byte* p) { return _mm512_loadu_ps(p); }
  static Floats LoadFloat(const std::byte* p) {  // in every lane
    return _mm512_set1_ps(*reinterpret_cast<const float*>(p));
  }
  // The first `count` lanes, all of them if they are more; +0 in the others.
  static Floats LoadFirst(const float* p, int64_t count) {
    return _mm512_maskz_loadu_ps(First(count), p);
  }
  static void StoreFirst(float* p, int64_t count, Floats x) {
    // Masked stores are slow on some processors.
    if (count >= kLanes) {
      _mm512_storeu_ps(p, x);
    } else {
      _mm512_mask_storeu_ps(p, First(count), x);
    }
  }
  static Floats Multiply(Floats a, Floats b) { return _mm512_mul_ps(a, b); }
  static Floats Fma(Floats a, Floats b, Floats c) { return _mm512_fmadd_ps(a, b, c); }
  static Floats AddProduct(Floats a, Floats b, Floats sum) { return Fma(a, b, sum); }
  static Floats FloatsOf(Ints x) { return _mm512_cvtepi32_ps(x); }

  static Ints ZeroInts() { return _mm512_setzero_si512(); }
  static Ints LoadInts(const std::byte* p) { return _mm512_loadu_si512(p); }
  static Ints LoadInt(const std::byte* p) {  // 4 bytes, in every lane
    int four;
    __builtin_memcpy(&four, p, sizeof(four));
    return _mm512_set1_epi32(four);
  }
  static Ints FillInts(int32_t x) { return _mm512_set1_epi32(x); }
  // The zero points in the lowest four bits of scales, and the scales without them.
  static Ints ZeroPoints(Ints scales) { return _mm512_and_si512(scales, FillInts(15)); }
  static Floats WithoutZeroPoints(Ints scales) {
    return _mm512_castsi512_ps(_mm512_andnot_si512(FillInts(15), scales));
  }
  // Of integers within 16 bits, the first ones not negative.
  static Ints MultiplyWords(Ints a, Ints b) { return _mm512_madd_epi16(a, b); }
  static Ints Add(Ints a, Ints b) { return _mm512_add_epi32(a, b); }
  static Ints LowNibbles(Ints x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
  static Ints HighNibbles(Ints x) { return LowNibbles(_mm512_srli_epi16(x, 4)); }
  // bf16 widened: of each lane the upper or the lower one.
  static Floats HighHalves(Ints x) {
    return _mm512_castsi512_ps(
        _mm512_and_si512(x, _mm512_set1_epi32(static_cast<int>(0xffff0000u))));
  }
  static Floats LowHalvesUp(Ints x) { return _mm512_castsi512_ps(_mm512_slli_epi32(x, 16)); }

 private:
  static __mmask16 First(int64_t count) {
    return count >= kLanes ? 0xffff : static_cast<__mmask16>((1u << count) - 1);
  }
};

}  // namespace
}  // namespace conclave::kernels::cpu

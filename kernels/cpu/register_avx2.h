// A register of AVX2, for the tiles of kernels/cpu/tile_sums.h. Included only by files compiled
// for it; internal linkage.
#pragma once

#include <immintrin.h>

#include <cstddef>
#include <cstdint>

namespace conclave::kernels::cpu {
namespace {

struct Register256 {
  using Floats = __m256;
  using Ints = __m256i;
  static constexpr int kLanes = 8;
  static constexpr int kCount = 16;

  // Panels of a tile of 1, 2, ... rows: at most 12 sums, which cover the latency of two
  // multiply-adds a cycle and leave room for the operands. Dots and sums never fit both.
  static constexpr int kWidePanels[6] = {4, 3, 2, 1, 1, 1};
  static constexpr int kNarrowPanels = 1;
  static constexpr int kMostDotsBesideSums = 0;

  static Floats Zero() { return _mm256_setzero_ps(); }
  static Floats Load(const std::byte* p) {
    return _mm256_loadu_ps(reinterpret_cast<const float*>(p));
  }
  static Floats LoadFloat(const std::byte* p) {  // in every lane
    return _mm256_broadcast_ss(reinterpret_cast<const float*>(p));
  }
  // The first `count` lanes, all of them if they are more, none if it is negative; +0 in the
  // others.
  static Floats LoadFirst(const float* p, int64_t count) {
    return count >= kLanes ? _mm256_loadu_ps(p) : _mm256_maskload_ps(p, First(count));
  }
  static void StoreFirst(float* p, int64_t count, Floats x) {
    if (count >= kLanes) {
      _mm256_storeu_ps(p, x);
    } else {
      _mm256_maskstore_ps(p, First(count), x);
    }
  }
  static Floats Multiply(Floats a, Floats b) { return _mm256_mul_ps(a, b); }
  static Floats Fma(Floats a, Floats b, Floats c) { return _mm256_fmadd_ps(a, b, c); }
  // Fma, where `sum` stays in its register. GCC 12 gives sums other ones by the other forms of the
  // instruction, and then has too few.
  static Floats AddProduct(Floats a, Floats b, Floats sum) {
    asm("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
    return sum;
  }
  static Floats FloatsOf(Ints x) { return _mm256_cvtepi32_ps(x); }

  static Ints ZeroInts() { return _mm256_setzero_si256(); }
  static Ints LoadInts(const std::byte* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  }
  static Ints LoadInt(const std::byte* p) {  // 4 bytes, in every lane
    int four;
    __builtin_memcpy(&four, p, sizeof(four));
    return _mm256_set1_epi32(four);
  }
  static Ints FillInts(int32_t x) { return _mm256_set1_epi32(x); }
  // The zero points in the lowest four bits of scales, and the scales without them.
  static Ints ZeroPoints(Ints scales) { return _mm256_and_si256(scales, FillInts(15)); }
  static Floats WithoutZeroPoints(Ints scales) {
    return _mm256_castsi256_ps(_mm256_andnot_si256(FillInts(15), scales));
  }
  // Of integers within 16 bits, the first ones not negative.
  static Ints MultiplyWords(Ints a, Ints b) { return _mm256_madd_epi16(a, b); }
  static Ints Add(Ints a, Ints b) { return _mm256_add_epi32(a, b); }
  static Ints LowNibbles(Ints x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
  static Ints HighNibbles(Ints x) { return LowNibbles(_mm256_srli_epi16(x, 4)); }
  // bf16 widened: of each lane the upper or the lower one.
  static Floats HighHalves(Ints x) {
    // The mask stays in memory: the loop that needs it has no register left.
    alignas(32) static constexpr uint32_t kMask[8] = {0xffff0000u, 0xffff0000u, 0xffff0000u,
                                                      0xffff0000u, 0xffff0000u, 0xffff0000u,
                                                      0xffff0000u, 0xffff0000u};
    asm("vpand %1, %0, %0" : "+x"(x) : "m"(kMask));
    return _mm256_castsi256_ps(x);
  }
  static Floats LowHalvesUp(Ints x) { return _mm256_castsi256_ps(_mm256_slli_epi32(x, 16)); }

 private:
  static __m256i First(int64_t count) {
    const __m256i lanes = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)), lanes);
  }
};

}  // namespace
}  // namespace conclave::kernels::cpu

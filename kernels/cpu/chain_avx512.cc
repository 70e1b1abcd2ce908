// The chains with AVX-512 alone: f32, bf16 without VDPBF16PS, and integers without VPDPBUSD.
#include <immintrin.h>

#include "kernels/cpu/chain.h"
#include "kernels/cpu/chain_tile_avx512.h"

namespace conclave::kernels::cpu {
namespace {

struct StepF32 {
  using Weight = __m512;
  using Input = __m512;
  static Weight LoadWeight(const std::byte* p) { return _mm512_loadu_ps(p); }
  static Input LoadInput(const std::byte* p) {
    return _mm512_set1_ps(*reinterpret_cast<const float*>(p));
  }
  static __m512 Apply(Input x, Weight w, __m512 sum) { return _mm512_fmadd_ps(x, w, sum); }
};

// A pair widened to two floats. Under FTZ and DAZ a fused multiply-add flushes exactly what
// VDPBF16PS does.
struct StepBf16 {
  struct Pair {
    __m512 even, odd;
  };
  using Weight = Pair;
  using Input = Pair;
  static Pair Widen(__m512i pairs) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(pairs, 16)),
            _mm512_castsi512_ps(
                _mm512_and_si512(pairs, _mm512_set1_epi32(static_cast<int>(0xffff0000u))))};
  }
  static Weight LoadWeight(const std::byte* p) { return Widen(_mm512_loadu_si512(p)); }
  static Input LoadInput(const std::byte* p) {
    int pair;
    __builtin_memcpy(&pair, p, sizeof(pair));
    return Widen(_mm512_set1_epi32(pair));
  }
  static __m512 Apply(const Input& x, const Weight& w, __m512 sum) {
    return _mm512_fmadd_ps(x.even, w.even, _mm512_fmadd_ps(x.odd, w.odd, sum));
  }
};

// Four products of bytes by four of words, the even and the odd ones.
struct DotWords {
  struct Input {
    __m512i even, odd;
  };
  static Input LoadInput(const std::byte* p) {
    int four;
    __builtin_memcpy(&four, p, sizeof(four));
    const __m512i x = _mm512_set1_epi32(four);
    return {_mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8), _mm512_srai_epi16(x, 8)};
  }
  static __m512i Apply(const Input& x, __m512i bytes, __m512i sum) {
    const __m512i even = _mm512_and_si512(bytes, _mm512_set1_epi16(0xff));
    const __m512i odd = _mm512_srli_epi16(bytes, 8);
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(even, x.even));
    return _mm512_add_epi32(sum, _mm512_madd_epi16(odd, x.odd));
  }
};

// Turns FTZ and DAZ on for this thread while it lives.
class FlushSubnormals {
 public:
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  ~FlushSubnormals() { _mm_setcsr(saved_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  unsigned saved_;
};

}  // namespace

void ChainF32Avx512(const ChainBlock& block) { RunChainBlock<FloatTile<StepF32>>(block); }

void ChainBf16Avx512(const ChainBlock& block) {
  const FlushSubnormals flush;
  RunChainBlock<FloatTile<StepBf16>>(block);
}

void ChainIntegersAvx512(const ChainBlock& block) {
  if (block.format.type == WeightType::kInt8) {
    RunChainBlock<IntegerTile<DotWords, false>>(block);
  } else if (block.format.zeros) {
    RunChainBlock<IntegerTile<DotWords, true, true>>(block);
  } else {
    RunChainBlock<IntegerTile<DotWords, true>>(block);
  }
}

}  // namespace conclave::kernels::cpu

// The chains with AVX-512 alone: f32, bf16 without VDPBF16PS, and integers without VPDPBUSD.
#include <immintrin.h>

#include "kernels/cpu/chain.h"
#include "kernels/cpu/chain_tile.h"
#include "kernels/cpu/flush_subnormals.h"
#include "kernels/cpu/register_avx512.h"

namespace conclave::kernels::cpu {
namespace {

// The step of format bf16 without VDPBF16PS, both elements of a pair at once, for which there are
// registers enough. Under FTZ and DAZ a fused multiply-add flushes exactly what VDPBF16PS does.
struct StepPairs {
  using Register = Register512;
  struct Operand {
    __m512 even, odd;
  };
  static constexpr int64_t kRowBytes = kStepRowBytes;
  static constexpr int kParts = 1;
  template <int>
  static Operand LoadWeight(const std::byte* p) {
    return Widen(Register::LoadInts(p));
  }
  template <int>
  static Operand LoadInput(const std::byte* p) {
    return Widen(Register::LoadInt(p));
  }
  static __m512 Apply(const Operand& x, const Operand& w, __m512 sum) {
    return Register::Fma(x.even, w.even, Register::Fma(x.odd, w.odd, sum));
  }

 private:
  static Operand Widen(__m512i pairs) {
    return {Register::LowHalvesUp(pairs), Register::HighHalves(pairs)};
  }
};

// Four products of bytes by four of words, the even and the odd ones.
struct DotWords {
  using Register = Register512;
  using Weight = __m512i;
  struct Input {
    __m512i even, odd;
  };
  static constexpr bool kOffset = true;
  static constexpr int kRun = 0;
  static Weight Prepare(__m512i bytes) { return bytes; }
  static Input LoadInput(const std::byte* p) {
    const __m512i x = Register::LoadInt(p);
    return {_mm512_srai_epi16(_mm512_slli_epi16(x, 8), 8), _mm512_srai_epi16(x, 8)};
  }
  static __m512i Apply(const Input& x, __m512i bytes, __m512i sum) {
    const __m512i even = _mm512_and_si512(bytes, _mm512_set1_epi16(0xff));
    const __m512i odd = _mm512_srli_epi16(bytes, 8);
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(even, x.even));
    return _mm512_add_epi32(sum, _mm512_madd_epi16(odd, x.odd));
  }
};

}  // namespace

void ChainF32Avx512(const ChainBlock& block) {
  RunChainBlock<FloatTile<StepF32<Register512>>>(block);
}

void ChainBf16Avx512(const ChainBlock& block) {
  const FlushSubnormals flush;
  RunChainBlock<FloatTile<StepPairs>>(block);
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

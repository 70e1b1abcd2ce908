// The chains with AVX2 and FMA.
#include <immintrin.h>

#include "kernels/cpu/chain.h"
#include "kernels/cpu/chain_tile.h"
#include "kernels/cpu/flush_subnormals.h"
#include "kernels/cpu/register_avx2.h"

namespace conclave::kernels::cpu {
namespace {

// Widening the inputs again for each panel would take as many instructions as multiplying.
struct StepBf16Avx2 : StepBf16<Register256> {
  using Widened = StepWidenedBf16<Register256>;
};

// A running sum, as it is. GCC would add the products of several steps to each other first, and has
// no registers for them.
__m256i Kept(__m256i sum) {
  asm("" : "+x"(sum));
  return sum;
}

// VPMADDUBSW multiplies unsigned bytes by signed ones and adds two products in 16 bits, where it
// saturates; here nothing comes near.

// Bytes of int8: the weights' magnitudes, of at most 128, by the inputs with their signs, of at
// most 127: two products are within 32,512.
struct DotBytes {
  using Register = Register256;
  struct Weight {
    __m256i magnitude, value;
  };
  using Input = __m256i;
  static constexpr bool kOffset = false;
  static constexpr int kRun = 0;
  static Weight Prepare(__m256i bytes) {
    const __m256i value = _mm256_xor_si256(bytes, _mm256_set1_epi8(-128));  // less 128
    return {_mm256_abs_epi8(value), value};
  }
  static Input LoadInput(const std::byte* p) { return Register::LoadInt(p); }
  static __m256i Apply(Input x, const Weight& w, __m256i sum) {
    const __m256i pairs = _mm256_maddubs_epi16(w.magnitude, _mm256_sign_epi8(x, w.value));
    return Kept(_mm256_add_epi32(sum, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1))));
  }
};

// Half bytes of int4, 0 to 15: the products of 16 inputs are within 8 * 2 * 15 * 127 = 30,480, so
// the sums of a run of 8 dots, of 4 words, hold them in 16 bits a pair.
struct DotHalfBytes {
  using Register = Register256;
  using Weight = __m256i;
  using Input = __m256i;
  static constexpr bool kOffset = true;
  static constexpr int kRun = 4;
  static Weight Prepare(__m256i bytes) { return bytes; }
  static Input LoadInput(const std::byte* p) { return Register::LoadInt(p); }
  static __m256i Apply(Input x, __m256i bytes, __m256i sum) {
    return Kept(_mm256_add_epi16(sum, _mm256_maddubs_epi16(bytes, x)));
  }
  static __m256i Fold(__m256i pairs) { return _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)); }
};

}  // namespace

void ChainF32Avx2(const ChainBlock& block) {
  RunChainBlock<FloatTile<StepF32<Register256>>>(block);
}

void ChainBf16Avx2(const ChainBlock& block) {
  const FlushSubnormals flush;
  RunChainBlock<FloatTile<StepBf16Avx2>>(block);
}

void ChainIntegersAvx2(const ChainBlock& block) {
  if (block.format.type == WeightType::kInt8) {
    RunChainBlock<IntegerTile<DotBytes, false>>(block);
  } else if (block.format.zeros) {
    RunChainBlock<IntegerTile<DotHalfBytes, true, true>>(block);
  } else {
    RunChainBlock<IntegerTile<DotHalfBytes, true>>(block);
  }
}

}  // namespace conclave::kernels::cpu

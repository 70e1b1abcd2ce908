// The bf16 chain by VDPBF16PS.
#include <immintrin.h>

#include "kernels/cpu/chain.h"
#include "kernels/cpu/chain_tile_avx512.h"

namespace conclave::kernels::cpu {
namespace {

struct StepDotProduct {
  using Weight = __m512i;
  using Input = __m512i;
  static Weight LoadWeight(const std::byte* p) { return _mm512_loadu_si512(p); }
  static Input LoadInput(const std::byte* p) {
    int pair;
    __builtin_memcpy(&pair, p, sizeof(pair));
    return _mm512_set1_epi32(pair);
  }
  static __m512 Apply(Input x, Weight w, __m512 sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w);
  }
};

}  // namespace

void ChainBf16Avx512Bf16(const ChainBlock& block) {
  RunChainBlock<FloatTile<StepDotProduct>>(block);
}

}  // namespace conclave::kernels::cpu

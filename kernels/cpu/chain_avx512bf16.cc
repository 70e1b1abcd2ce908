// The bf16 chain by VDPBF16PS.
#include <immintrin.h>

#include "kernels/cpu/chain.h"
#include "kernels/cpu/chain_tile.h"
#include "kernels/cpu/register_avx512.h"

namespace conclave::kernels::cpu {
namespace {

struct StepDotProduct {
  using Register = Register512;
  using Operand = __m512i;
  static constexpr int64_t kRowBytes = kStepRowBytes;
  static constexpr int kParts = 1;
  template <int>
  static Operand LoadWeight(const std::byte* p) {
    return Register::LoadInts(p);
  }
  template <int>
  static Operand LoadInput(const std::byte* p) {
    return Register::LoadInt(p);
  }
  static __m512 Apply(Operand x, Operand w, __m512 sum) {
    return _mm512_dpbf16_ps(sum, (__m512bh)x, (__m512bh)w);
  }
};

}  // namespace

void ChainBf16Avx512Bf16(const ChainBlock& block) {
  RunChainBlock<FloatTile<StepDotProduct>>(block);
}

}  // namespace conclave::kernels::cpu

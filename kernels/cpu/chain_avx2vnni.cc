// The integer chains by the VPDPBUSD of AVX-VNNI.
#include <immintrin.h>

#include "kernels/cpu/chain.h"
#include "kernels/cpu/chain_tile.h"
#include "kernels/cpu/register_avx2.h"

namespace conclave::kernels::cpu {
namespace {

struct DotBytes {
  using Register = Register256;
  using Weight = __m256i;
  using Input = __m256i;
  static constexpr bool kOffset = true;
  static constexpr int kRun = 0;
  static Weight Prepare(__m256i bytes) { return bytes; }
  static Input LoadInput(const std::byte* p) { return Register::LoadInt(p); }
  static __m256i Apply(Input x, __m256i bytes, __m256i sum) {
    // The intrinsic, in place: GCC 12 copies each sum around it.
    asm("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(bytes), "x"(x));
    return sum;
  }
};

}  // namespace

void ChainIntegersAvx2Vnni(const ChainBlock& block) {
  if (block.format.type == WeightType::kInt8) {
    RunChainBlock<IntegerTile<DotBytes, false>>(block);
  } else if (block.format.zeros) {
    RunChainBlock<IntegerTile<DotBytes, true, true>>(block);
  } else {
    RunChainBlock<IntegerTile<DotBytes, true>>(block);
  }
}

}  // namespace conclave::kernels::cpu

// The integer chains by VPDPBUSD.
#include <immintrin.h>

#include "kernels/cpu/chain.h"
#include "kernels/cpu/chain_tile.h"
#include "kernels/cpu/register_avx512.h"

namespace conclave::kernels::cpu {
namespace {

struct DotBytes {
  using Register = Register512;
  using Weight = __m512i;
  using Input = __m512i;
  static constexpr bool kOffset = true;
  static constexpr int kRun = 0;
  static Weight Prepare(__m512i bytes) { return bytes; }
  static Input LoadInput(const std::byte* p) { return Register::LoadInt(p); }
  static __m512i Apply(Input x, __m512i bytes, __m512i sum) {
    // The intrinsic, in place: GCC 12 copies each sum around it, at half of the speed.
    asm("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(bytes), "v"(x));
    return sum;
  }
};

}  // namespace

void ChainIntegersAvx512Vnni(const ChainBlock& block) {
  if (block.format.type == WeightType::kInt8) {
    RunChainBlock<IntegerTile<DotBytes, false>>(block);
  } else if (block.format.zeros) {
    RunChainBlock<IntegerTile<DotBytes, true, true>>(block);
  } else {
    RunChainBlock<IntegerTile<DotBytes, true>>(block);
  }
}

}  // namespace conclave::kernels::cpu

// The integer chains by VPDPBUSD.
#include <immintrin.h>

#include "kernels/cpu/chain.h"
#include "kernels/cpu/chain_tile_avx512.h"

namespace conclave::kernels::cpu {
namespace {

struct DotBytes {
  using Input = __m512i;
  static Input LoadInput(const std::byte* p) {
    int four;
    __builtin_memcpy(&four, p, sizeof(four));
    return _mm512_set1_epi32(four);
  }
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

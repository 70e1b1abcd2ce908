#include <immintrin.h>

#include "kernels/cpu/multiply_adds.h"
#include "kernels/cpu/peaks.h"

namespace conclave::kernels::cpu {
namespace {

struct DotBf16 {
  using Vector = __m512i;
  static constexpr int kSums = 24;
  static constexpr int64_t kOperations = 16 * 2 * 2;
  static Vector All(int bits) { return _mm512_set1_epi32(bits); }
  static void Apply(Vector& sum, Vector a, Vector b) {
    asm volatile("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
};

}  // namespace

int64_t DotBf16Avx512(int64_t rounds) { return RunMultiplyAdds<DotBf16>(rounds); }

}  // namespace conclave::kernels::cpu

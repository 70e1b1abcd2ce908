#include <immintrin.h>

#include "kernels/cpu/multiply_adds_avx512.h"
#include "kernels/cpu/peaks_avx512.h"

namespace conclave::kernels::cpu {
namespace {

struct DotBf16 {
  static constexpr int64_t kOperations = 16 * 2 * 2;
  static void Apply(__m512i& sum, __m512i a, __m512i b) {
    asm volatile("vdpbf16ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
};

}  // namespace

int64_t DotBf16Avx512(int64_t rounds) { return RunMultiplyAdds<DotBf16>(rounds); }

}  // namespace conclave::kernels::cpu

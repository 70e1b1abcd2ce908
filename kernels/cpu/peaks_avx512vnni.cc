#include <immintrin.h>

#include "kernels/cpu/multiply_adds_avx512.h"
#include "kernels/cpu/peaks_avx512.h"

namespace conclave::kernels::cpu {
namespace {

struct DotInt8 {
  static constexpr int64_t kOperations = 16 * 4 * 2;
  static void Apply(__m512i& sum, __m512i a, __m512i b) {
    asm volatile("vpdpbusd %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
};

}  // namespace

int64_t DotInt8Avx512(int64_t rounds) { return RunMultiplyAdds<DotInt8>(rounds); }

}  // namespace conclave::kernels::cpu

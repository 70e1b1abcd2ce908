#include <immintrin.h>

#include "kernels/cpu/multiply_adds.h"
#include "kernels/cpu/peaks.h"

namespace conclave::kernels::cpu {
namespace {

struct DotInt8 {
  using Vector = __m256i;
  static constexpr int kSums = 12;
  static constexpr int64_t kOperations = 8 * 4 * 2;
  static Vector All(int bits) { return _mm256_set1_epi32(bits); }
  static void Apply(Vector& sum, Vector a, Vector b) {
    asm volatile("%{vex%} vpdpbusd %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  }
};

}  // namespace

int64_t DotInt8Avx2Vnni(int64_t rounds) { return RunMultiplyAdds<DotInt8>(rounds); }

}  // namespace conclave::kernels::cpu

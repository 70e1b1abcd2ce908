#include <immintrin.h>

#include "kernels/cpu/multiply_adds.h"
#include "kernels/cpu/peaks.h"

namespace conclave::kernels::cpu {
namespace {

struct OnRegisters {
  using Vector = __m512i;
  static constexpr int kSums = 24;
  static Vector All(int bits) { return _mm512_set1_epi32(bits); }
};

struct Fma : OnRegisters {
  static constexpr int64_t kOperations = 16 * 2;
  static void Apply(__m512i& sum, __m512i a, __m512i b) {
    asm volatile("vfmadd231ps %2, %1, %0" : "+v"(sum) : "v"(a), "v"(b));
  }
};

// Half of the four products of bytes in a lane: those of the even or of the odd ones.
struct DotInt8 : OnRegisters {
  static constexpr int64_t kOperations = 16 * 2 * 2;
  static void Apply(__m512i& sum, __m512i a, __m512i b) {
    __m512i product;
    asm volatile("vpmaddwd %2, %1, %0" : "=v"(product) : "v"(a), "v"(b));
    asm volatile("vpaddd %1, %0, %0" : "+v"(sum) : "v"(product));
  }
};

}  // namespace

uint64_t ReadAvx512(const std::byte* data, size_t bytes) {
  __m512i sums[8];
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  const size_t stream = bytes / 8;
  for (size_t i = 0; i < stream; i += 64) {
#pragma GCC unroll 8
    for (size_t j = 0; j < 8; ++j) {
      sums[j] = _mm512_add_epi64(sums[j], _mm512_loadu_si512(data + j * stream + i));
    }
  }
  for (int j = 1; j < 8; ++j) sums[0] = _mm512_add_epi64(sums[0], sums[j]);
  return static_cast<uint64_t>(_mm512_reduce_add_epi64(sums[0]));
}

int64_t FmaAvx512(int64_t rounds) { return RunMultiplyAdds<Fma>(rounds); }
int64_t DotInt8Avx512(int64_t rounds) { return RunMultiplyAdds<DotInt8>(rounds); }

}  // namespace conclave::kernels::cpu

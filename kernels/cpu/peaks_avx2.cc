#include <immintrin.h>

#include "kernels/cpu/multiply_adds.h"
#include "kernels/cpu/peaks.h"

namespace conclave::kernels::cpu {
namespace {

struct OnRegisters {
  using Vector = __m256i;
  static constexpr int kSums = 12;
  static Vector All(int bits) { return _mm256_set1_epi32(bits); }
};

struct Fma : OnRegisters {
  static constexpr int64_t kOperations = 8 * 2;
  static void Apply(__m256i& sum, __m256i a, __m256i b) {
    asm volatile("vfmadd231ps %2, %1, %0" : "+x"(sum) : "x"(a), "x"(b));
  }
};

struct DotInt8 : OnRegisters {
  static constexpr int64_t kOperations = 8 * 4 * 2;
  static void Apply(__m256i& sum, __m256i a, __m256i b) {
    __m256i product;
    asm volatile("vpsignb %2, %1, %0" : "=x"(product) : "x"(a), "x"(b));
    asm volatile("vpmaddubsw %0, %1, %0" : "+x"(product) : "x"(a));
    asm volatile("vpmaddwd %1, %0, %0" : "+x"(product) : "x"(b));
    asm volatile("vpaddd %1, %0, %0" : "+x"(sum) : "x"(product));
  }
};

struct DotInt4 : OnRegisters {
  static constexpr int64_t kOperations = 8 * 4 * 2;
  static void Apply(__m256i& sum, __m256i a, __m256i b) {
    __m256i product;
    asm volatile("vpmaddubsw %2, %1, %0" : "=x"(product) : "x"(a), "x"(b));
    asm volatile("vpaddw %1, %0, %0" : "+x"(sum) : "x"(product));
  }
};

}  // namespace

uint64_t ReadAvx2(const std::byte* data, size_t bytes) {
  __m256i sums[8];
  for (__m256i& sum : sums) sum = _mm256_setzero_si256();
  const size_t stream = bytes / 8;
  const auto load = [](const std::byte* p) {
    return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  };
  for (size_t i = 0; i < stream; i += 64) {
#pragma GCC unroll 8
    for (size_t j = 0; j < 8; ++j) {
      const std::byte* line = data + j * stream + i;
      sums[j] = _mm256_add_epi64(sums[j], _mm256_add_epi64(load(line), load(line + 32)));
    }
  }
  for (int j = 1; j < 8; ++j) sums[0] = _mm256_add_epi64(sums[0], sums[j]);
  alignas(32) uint64_t lanes[4];
  _mm256_store_si256(reinterpret_cast<__m256i*>(lanes), sums[0]);
  return lanes[0] + lanes[1] + lanes[2] + lanes[3];
}

int64_t FmaAvx2(int64_t rounds) { return RunMultiplyAdds<Fma>(rounds); }
int64_t DotInt8Avx2(int64_t rounds) { return RunMultiplyAdds<DotInt8>(rounds); }
int64_t DotInt4Avx2(int64_t rounds) { return RunMultiplyAdds<DotInt4>(rounds); }

}  // namespace conclave::kernels::cpu

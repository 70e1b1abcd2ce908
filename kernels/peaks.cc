#include "kernels/peaks.h"

#include <cstring>
#include <numeric>

#include "kernels/cpu/peaks.h"

namespace conclave::kernels {

uint64_t ReadMemory(CpuLevel level, const std::byte* data, size_t bytes) {
  if (level >= CpuLevel::kAvx512) return cpu::ReadAvx512(data, bytes);
  if (level != CpuLevel::kReference) return cpu::ReadAvx2(data, bytes);
  const size_t stream = bytes / 8;
  uint64_t sums[8] = {};
  for (size_t i = 0; i < stream; i += sizeof(uint64_t)) {
    for (size_t j = 0; j < 8; ++j) {
      uint64_t word;
      std::memcpy(&word, data + j * stream + i, sizeof(word));
      sums[j] += word;
    }
  }
  return std::accumulate(std::begin(sums), std::end(sums), uint64_t{0});
}

int64_t MultiplyAdds(CpuLevel level, WeightType type, int64_t rounds) {
  const bool avx512 = level >= CpuLevel::kAvx512;
  const bool integers = type == WeightType::kInt8 || type == WeightType::kInt4;
  if (level == CpuLevel::kReference) return 0;
  if (type == WeightType::kBf16 && level == CpuLevel::kAvx512Bf16) {
    return cpu::DotBf16Avx512(rounds);
  }
  if (!integers) return avx512 ? cpu::FmaAvx512(rounds) : cpu::FmaAvx2(rounds);
  if (level >= CpuLevel::kAvx512Vnni) return cpu::DotInt8Avx512Vnni(rounds);
  if (avx512) return cpu::DotInt8Avx512(rounds);
  if (level == CpuLevel::kAvx2Vnni) return cpu::DotInt8Avx2Vnni(rounds);
  return type == WeightType::kInt8 ? cpu::DotInt8Avx2(rounds) : cpu::DotInt4Avx2(rounds);
}

}  // namespace conclave::kernels

#include "kernels/peaks.h"

#include <cstring>
#include <numeric>

#include "kernels/cpu/peaks_avx512.h"

namespace conclave::kernels {

uint64_t ReadMemory(CpuLevel level, const std::byte* data, size_t bytes) {
  if (level != CpuLevel::kReference) return cpu::ReadAvx512(data, bytes);
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
  if (level == CpuLevel::kReference) return 0;
  switch (type) {
    case WeightType::kF32:
      return cpu::FmaAvx512(rounds);
    case WeightType::kBf16:
      return level >= CpuLevel::kAvx512Bf16 ? cpu::DotBf16Avx512(rounds) : 0;
    case WeightType::kInt8:
    case WeightType::kInt4:
      break;
  }
  return level >= CpuLevel::kAvx512Vnni ? cpu::DotInt8Avx512(rounds) : 0;
}

}  // namespace conclave::kernels

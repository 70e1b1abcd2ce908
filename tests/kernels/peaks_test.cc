#include "kernels/peaks.h"

#include <gtest/gtest.h>

#include "tests/kernels/random_rows.h"

namespace conclave::kernels {
namespace {

TEST(PeaksTest, ReadsEveryByteOnce) {
  Rng rng(1);
  AlignedBytes bytes(4096);
  uint64_t sum = 0;
  for (size_t i = 0; i < 4096 / sizeof(uint64_t); ++i) {
    const uint64_t word = static_cast<uint64_t>(rng.Below(int64_t{1} << 62));
    std::memcpy(bytes.data() + i * sizeof(word), &word, sizeof(word));
    sum += word;
  }
  for (const CpuLevel level : SupportedLevels()) {
    EXPECT_EQ(ReadMemory(level, bytes.data(), 4096), sum) << CpuLevelName(level);
    EXPECT_EQ(ReadMemory(level, bytes.data(), 0), 0u);
  }
}

TEST(PeaksTest, SaysWhatItDoes) {
  EXPECT_EQ(MultiplyAdds(CpuLevel::kReference, WeightType::kF32, 10), 0);
  if (!CpuSupports(CpuLevel::kAvx512)) GTEST_SKIP() << "no AVX-512";
  const int64_t f32 = MultiplyAdds(CpuLevel::kAvx512, WeightType::kF32, 10);
  EXPECT_EQ(f32, 10 * 24 * 16 * 2);
  EXPECT_EQ(MultiplyAdds(CpuLevel::kAvx512, WeightType::kBf16, 10), 0);
  EXPECT_EQ(MultiplyAdds(CpuLevel::kAvx512, WeightType::kInt8, 10), 0);
  if (!CpuSupports(CpuLevel::kAvx512Vnni)) return;
  EXPECT_EQ(MultiplyAdds(CpuLevel::kAvx512Vnni, WeightType::kBf16, 10), 0);
  EXPECT_EQ(MultiplyAdds(CpuLevel::kAvx512Vnni, WeightType::kInt8, 10), 4 * f32);
  EXPECT_EQ(MultiplyAdds(CpuLevel::kAvx512Vnni, WeightType::kInt4, 10), 4 * f32);
  if (!CpuSupports(CpuLevel::kAvx512Bf16)) return;
  EXPECT_EQ(MultiplyAdds(CpuLevel::kAvx512Bf16, WeightType::kBf16, 10), 2 * f32);
}

}  // namespace
}  // namespace conclave::kernels

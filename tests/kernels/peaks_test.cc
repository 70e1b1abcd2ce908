#include "kernels/peaks.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>
#include <string>

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
  struct Expected {
    CpuLevel level;
    int64_t f32, bf16, int8, int4;
  };
  // 10 rounds of as many registers as a tile's sums take, with so many operations each.
  constexpr int64_t kAvx2 = 10 * 12 * 8 * 2, kAvx512 = 10 * 24 * 16 * 2;
  constexpr Expected kExpected[] = {
      {CpuLevel::kReference, 0, 0, 0, 0},
      {CpuLevel::kAvx2, kAvx2, kAvx2, 4 * kAvx2, 4 * kAvx2},
      {CpuLevel::kAvx2Vnni, kAvx2, kAvx2, 4 * kAvx2, 4 * kAvx2},
      {CpuLevel::kAvx512, kAvx512, kAvx512, 2 * kAvx512, 2 * kAvx512},
      {CpuLevel::kAvx512Vnni, kAvx512, kAvx512, 4 * kAvx512, 4 * kAvx512},
      {CpuLevel::kAvx512Bf16, kAvx512, 2 * kAvx512, 4 * kAvx512, 4 * kAvx512}};
  for (const Expected& expected : kExpected) {
    if (!CpuSupports(expected.level)) continue;
    SCOPED_TRACE(std::string(CpuLevelName(expected.level)));
    EXPECT_EQ(MultiplyAdds(expected.level, WeightType::kF32, 10), expected.f32);
    EXPECT_EQ(MultiplyAdds(expected.level, WeightType::kBf16, 10), expected.bf16);
    EXPECT_EQ(MultiplyAdds(expected.level, WeightType::kInt8, 10), expected.int8);
    EXPECT_EQ(MultiplyAdds(expected.level, WeightType::kInt4, 10), expected.int4);
  }
}

}  // namespace
}  // namespace conclave::kernels

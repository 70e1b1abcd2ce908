#include "shared/weights/dtype.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstring>
#include <vector>

namespace conclave::weights {
namespace {

TEST(DTypeTest, NamesAndSizesGoBothWays) {
  for (int i = 0; i <= static_cast<int>(DType::kU64); ++i) {
    const DType dtype = static_cast<DType>(i);
    EXPECT_EQ(ParseDType(DTypeName(dtype)), dtype);
    EXPECT_GE(DTypeBits(dtype), 4);
    EXPECT_LE(DTypeBits(dtype), 64);
  }
  EXPECT_EQ(ParseDType("bf16"), std::nullopt);
  EXPECT_EQ(ParseDType(""), std::nullopt);
}

TEST(DTypeTest, WidensEveryHalf) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float got = HalfToFloat(static_cast<uint16_t>(bits));
    const int exponent = static_cast<int>((bits >> 10) & 0x1f);
    const double mantissa = bits & 0x3ff;
    double wanted;
    if (exponent == 0x1f) {
      wanted = mantissa == 0 ? INFINITY : NAN;
    } else if (exponent == 0) {
      wanted = std::ldexp(mantissa, -24);
    } else {
      wanted = std::ldexp(1024 + mantissa, exponent - 25);
    }
    if ((bits & 0x8000) != 0) wanted = -wanted;
    if (std::isnan(wanted)) {
      ASSERT_TRUE(std::isnan(got)) << bits;
    } else {
      ASSERT_EQ(got, static_cast<float>(wanted)) << bits;
      ASSERT_EQ(std::signbit(got), (bits & 0x8000) != 0) << bits;
    }
  }
}

TEST(DTypeTest, WidensEveryFloat8) {
  for (uint32_t bits = 0; bits < 0x100; ++bits) {
    const float got = Float8ToFloat(static_cast<uint8_t>(bits));
    const int exponent = static_cast<int>((bits >> 3) & 0xf);
    const double mantissa = bits & 7;
    double wanted =
        exponent == 0 ? std::ldexp(mantissa, -9) : std::ldexp(8 + mantissa, exponent - 10);
    if ((bits & 0x80) != 0) wanted = -wanted;
    if ((bits & 0x7f) == 0x7f) {
      EXPECT_TRUE(std::isnan(got)) << bits;
    } else {
      EXPECT_EQ(got, static_cast<float>(wanted)) << bits;
    }
  }
  EXPECT_EQ(Float8ToFloat(0x7e), 448.0f);
}

TEST(DTypeTest, WidensFromUnalignedMemory) {
  const std::vector<float> values = {1.5f, -2.25f, 0x1p-140f};
  std::vector<std::byte> memory(1 + values.size() * sizeof(float));
  std::memcpy(memory.data() + 1, values.data(), values.size() * sizeof(float));
  std::vector<float> output(values.size());
  WidenToFloat(DType::kF32, memory.data() + 1, output);
  EXPECT_EQ(output, values);
  for (size_t i = 0; i < values.size(); ++i) {
    const uint16_t upper = static_cast<uint16_t>(std::bit_cast<uint32_t>(values[i]) >> 16);
    std::memcpy(memory.data() + 1 + 2 * i, &upper, 2);
  }
  WidenToFloat(DType::kBf16, memory.data() + 1, std::span(output).first(2));
  EXPECT_EQ(output[0], 1.5f);
  EXPECT_EQ(output[1], -2.25f);
}

}  // namespace
}  // namespace conclave::weights

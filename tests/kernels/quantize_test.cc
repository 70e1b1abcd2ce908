#include "kernels/quantize.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <vector>

#include "kernels/cpu/quantize.h"
#include "kernels/cpu/rounded_rows.h"
#include "kernels/ref/quantize.h"
#include "tests/kernels/random_rows.h"

namespace conclave::kernels {
namespace {

struct Group {
  explicit Group(WeightType type, const std::vector<float>& values)
      : integers(values.size()), scale(QuantizeGroup(type, values, integers.data())) {}
  std::vector<int8_t> integers;
  float scale;
};

double SquaredError(const std::vector<float>& values, const Group& group) {
  double sum = 0;
  for (size_t i = 0; i < values.size(); ++i) {
    const double error = values[i] - static_cast<double>(group.scale) * group.integers[i];
    sum += error * error;
  }
  return sum;
}

TEST(QuantizeTest, Int8TakesTheNearestOf255Steps) {
  Rng rng(1);
  for (int round = 0; round < 100; ++round) {
    const std::vector<float> values = rng.Normals(1 + rng.Below(128));
    const Group group(WeightType::kInt8, values);
    int largest = 0;
    for (size_t i = 0; i < values.size(); ++i) {
      largest = std::max(largest, std::abs(group.integers[i]));
      EXPECT_LE(std::fabs(values[i] - group.scale * static_cast<float>(group.integers[i])),
                group.scale * 0.5001f);
    }
    EXPECT_EQ(largest, 127);
  }
}

TEST(QuantizeTest, TiesGoToTheEvenInteger) {
  const Group group(WeightType::kInt8, {127.0f, 0.5f, 1.5f, 2.5f, -0.5f, -1.5f, -127.0f});
  EXPECT_EQ(group.integers, (std::vector<int8_t>{127, 0, 2, 2, 0, -2, -127}));
  EXPECT_EQ(group.scale, 1.0f);
}

// A lone scale of the largest magnitude over 7 or -8 is what simpler quantisers take.
TEST(QuantizeTest, Int4IsBetterThanByTheLargestAlone) {
  Rng rng(2);
  double sum = 0, simple_sum = 0;
  for (int round = 0; round < 200; ++round) {
    const std::vector<float> values = rng.Normals(64);
    const Group group(WeightType::kInt4, values);
    const float extreme =
        *std::ranges::max_element(values, {}, [](float value) { return std::fabs(value); });
    const double scale = extreme / -8.0;
    double simple = 0;
    for (const float value : values) {
      const double integer = std::clamp(std::nearbyint(value / scale), -8.0, 7.0);
      simple += (value - scale * integer) * (value - scale * integer);
    }
    for (const int8_t integer : group.integers) {
      EXPECT_GE(integer, -8);
      EXPECT_LE(integer, 7);
    }
    const double error = SquaredError(values, group);
    EXPECT_LE(error, simple * 1.0001);
    sum += error;
    simple_sum += simple;
  }
  EXPECT_LT(sum, 0.92 * simple_sum);
}

TEST(QuantizeTest, Int4KeepsWhatItCanSayExactly) {
  std::vector<float> values;
  for (int i = -8; i <= 7; ++i) values.push_back(0.25f * static_cast<float>(i));
  const Group group(WeightType::kInt4, values);
  EXPECT_EQ(group.scale, 0.25f);
  EXPECT_EQ(SquaredError(values, group), 0);
}

TEST(QuantizeTest, TinyAndSpecialGroups) {
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
  for (const WeightType type : {WeightType::kInt8, WeightType::kInt4}) {
    const Group zero(type, {0.0f, -0.0f, 0x1p-101f});
    EXPECT_EQ(zero.scale, 0.0f);
    EXPECT_EQ(zero.integers, (std::vector<int8_t>{0, 0, 0}));
    for (const float special : {kInfinity, -kInfinity, kNan}) {
      const Group group(type, {1.0f, special});
      EXPECT_TRUE(std::isnan(group.scale));
      EXPECT_EQ(group.integers, (std::vector<int8_t>{0, 0}));
    }
    for (const float magnitude : {0x1p-100f, std::numeric_limits<float>::max()}) {
      const Group group(type, {magnitude, -magnitude / 2});
      EXPECT_NEAR(static_cast<double>(group.scale) * group.integers[0] / magnitude, 1, 0.1);
    }
  }
}

TEST(QuantizeTest, EveryGroupHasTheReferencesBits) {
  Rng rng(4);
  constexpr float kSpecials[] = {0.0f, -0.0f, 0x1p-101f, 0x1p-100f, 0x1p+127f, -0x1p+100f};
  for (int round = 0; round < 2000; ++round) {
    std::vector<float> values = rng.Normals(1 + rng.Below(128), round % 2 == 0 ? 1.0f : 1e-3f);
    for (float& value : values) {
      if (rng.Below(4) == 0) value = std::nearbyint(value * 8) / 2;  // ties
      if (round % 5 == 0 && rng.Below(8) == 0) value = kSpecials[rng.Below(std::size(kSpecials))];
    }
    for (const WeightType type : {WeightType::kInt8, WeightType::kInt4}) {
      std::vector<int8_t> expected(values.size());
      const float scale = ref::QuantizeGroup(type, values, expected.data());
      for (const CpuLevel level : SupportedLevels()) {
        if (level == CpuLevel::kReference) continue;
        std::vector<int8_t> integers(values.size());
        const float level_scale = cpu::QuantizeFor(level).group(type, values, integers.data());
        ASSERT_TRUE(SameBits({level_scale}, {scale})) << round << " " << CpuLevelName(level);
        ASSERT_EQ(integers, expected) << round << " " << CpuLevelName(level);
      }
      const Group group(type, values);
      ASSERT_TRUE(SameBits({group.scale}, {scale})) << round;
      ASSERT_EQ(group.integers, expected) << round;
    }
  }
}

// What the vector code writes of a row is what QuantizeGroup says.
TEST(QuantizeTest, RowsHaveTheBitsOfTheirGroups) {
  Rng rng(3);
  constexpr float kSpecials[] = {0.0f, 0x1p-101f, 0x1p-100f, 0x1p+127f,
                                 std::numeric_limits<float>::quiet_NaN()};
  for (const WeightFormat format : kIntegerFormats) {
    for (const int64_t inputs : {1, 15, 31, 64, 65, 129, 300}) {
      std::vector<float> row = rng.Normals(inputs);
      // Ties, and groups that are not ordinary.
      for (float& value : row) {
        if (rng.Below(4) == 0) value = std::nearbyint(value * 8) / 2;
        if (rng.Below(40) == 0) value = kSpecials[rng.Below(std::size(kSpecials))];
      }
      for (const CpuLevel level : SupportedLevels()) {
        if (level == CpuLevel::kReference) continue;  // which has no such rows
        SCOPED_TRACE(NameOf(format) + " " + std::string(CpuLevelName(level)));
        std::vector<std::byte> rounded(static_cast<size_t>(cpu::RoundedRowBytes(format, inputs)));
        cpu::RoundRowFor(level, format, row.data(), inputs, rounded.data());
        const std::byte* step = rounded.data();
        for (int64_t first = 0; first < inputs; first += format.group) {
          const int64_t count = std::min<int64_t>(format.group, inputs - first);
          const Group group(WeightType::kInt8, {row.begin() + first, row.begin() + first + count});
          float scale;
          int32_t start, sum = 0;
          std::memcpy(&scale, step + format.group, sizeof(scale));
          std::memcpy(&start, step + format.group + 4, sizeof(start));
          EXPECT_TRUE(SameBits({scale}, {group.scale})) << first;
          for (int64_t k = 0; k < format.group; ++k) {
            const int wanted = k < count ? group.integers[static_cast<size_t>(k)] : 0;
            EXPECT_EQ(static_cast<int8_t>(step[k]), wanted) << first + k;
            sum += wanted;
          }
          EXPECT_EQ(start, -sum * (format.type == WeightType::kInt8 ? 128 : 1));
          step += cpu::StepRowBytes(format);
        }
      }
    }
  }
}

}  // namespace
}  // namespace conclave::kernels

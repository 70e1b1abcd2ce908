// The small row-wise operations: norm.h, rope.h and elementwise.h.
#include "kernels/ref/rows.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <vector>

#include "kernels/elementwise.h"
#include "kernels/norm.h"
#include "kernels/rope.h"
#include "tests/kernels/random_rows.h"

namespace conclave::kernels {
namespace {

constexpr int64_t kWidths[] = {1, 2, 15, 16, 17, 31, 33, 96, 257, 2048};

TEST(RmsNormTest, IsNearItsDefinition) {
  Rng rng(1);
  for (int64_t width : kWidths) {
    const std::vector<float> input = rng.Normals(width, 3.0f);
    const std::vector<float> weight = rng.Normals(width);
    std::vector<float> output(input.size());
    ref::RmsNorm(DenseView<const float>(input.data(), 1, width), weight.data(), 1e-5f,
                 DenseView(output.data(), 1, width));
    double squares = 0;
    for (float x : input) squares += double{x} * x;
    const double factor = 1.0 / std::sqrt(squares / static_cast<double>(width) + 1e-5);
    for (size_t i = 0; i < input.size(); ++i) {
      const double exact = input[i] * factor * weight[i];
      EXPECT_NEAR(output[i], exact, std::fabs(exact) * 1e-6);
    }
  }
}

TEST(RmsNormTest, LevelsGiveTheReferencesBitsInPlaceToo) {
  Rng rng(2);
  for (int64_t width : kWidths) {
    const std::vector<float> input = rng.Normals(40 * width, 3.0f);
    const std::vector<float> weight = rng.Normals(width);
    std::vector<float> expected(input.size());
    ref::RmsNorm(DenseView<const float>(input.data(), 40, width), weight.data(), 1e-6f,
                 DenseView(expected.data(), 40, width));
    for (CpuLevel level : SupportedLevels()) {
      for (int threads : {1, 2, 3}) {
        Context context(level, threads);
        std::vector<float> rows = input;
        RmsNorm(DenseView<const float>(rows.data(), 40, width), weight.data(), 1e-6f,
                DenseView(rows.data(), 40, width), context);
        EXPECT_TRUE(SameBits(rows, expected)) << CpuLevelName(level) << " " << width;
      }
    }
  }
}

TEST(RmsNormTest, ZerosGiveZeros) {
  for (CpuLevel level : SupportedLevels()) {
    Context context(level, 1);
    std::vector<float> rows(33, 0.0f);
    const std::vector<float> weight(33, 2.0f);
    RmsNorm(DenseView<const float>(rows.data(), 1, 33), weight.data(), 1e-6f,
            DenseView(rows.data(), 1, 33), context);
    for (float x : rows) EXPECT_EQ(x, 0.0f);
  }
}

TEST(RopeTest, LevelsGiveTheReferencesBits) {
  Rng rng(3);
  for (RopePairing pairing : {RopePairing::kInterleaved, RopePairing::kHalves}) {
    for (int64_t rope_dim : {2, 6, 16, 30, 32, 34, 64, 128}) {
      const RopeTable table = MakeRopeTable(RopeFrequencies(10000.0, rope_dim), 50, 1.0);
      const int64_t stride = rope_dim + 5;  // a head's other columns stay as they are
      const std::vector<float> input = rng.Normals(9 * 3 * stride);
      const std::vector<int32_t> positions = {0, 1, 2, 49, 7, 7, 30, 31, 32};
      std::vector<float> expected = input;
      ref::ApplyRope(table, pairing, positions, 3, stride,
                     DenseView(expected.data(), 9, 3 * stride));
      EXPECT_FALSE(SameBits(expected, input));
      for (CpuLevel level : SupportedLevels()) {
        for (int threads : {1, 3}) {
          Context context(level, threads);
          std::vector<float> rows = input;
          ApplyRope(table, pairing, positions, 3, stride, DenseView(rows.data(), 9, 3 * stride),
                    context);
          EXPECT_TRUE(SameBits(rows, expected)) << CpuLevelName(level) << " " << rope_dim;
        }
      }
    }
  }
}

TEST(RopeTest, TablesAreNearTheExactFunctions) {
  for (double theta : {10000.0, 1e6}) {
    const RopeTable table = MakeRopeTable(RopeFrequencies(theta, 64), 4096, 0.75);
    ASSERT_EQ(table.num_pairs, 32);
    for (int64_t position : {0, 1, 100, 4095}) {
      for (int64_t i = 0; i < 32; ++i) {
        const long double angle =
            position * std::pow(static_cast<long double>(theta), -2.0L * i / 64);
        EXPECT_NEAR(table.cos[position * 32 + i], static_cast<double>(0.75L * std::cos(angle)),
                    1e-7);
        EXPECT_NEAR(table.sin[position * 32 + i], static_cast<double>(0.75L * std::sin(angle)),
                    1e-7);
      }
    }
  }
}

TEST(RopeTest, ScoresDependOnTheDistanceAlone) {
  Rng rng(4);
  const RopeTable table = MakeRopeTable(RopeFrequencies(10000.0, 32), 200, 1.0);
  const std::vector<float> query = rng.Normals(32);
  const std::vector<float> key = rng.Normals(32);
  const auto score = [&](RopePairing pairing, int32_t q_position, int32_t k_position) {
    std::vector<float> q = query, k = key;
    ref::ApplyRope(table, pairing, {&q_position, 1}, 1, 32, DenseView(q.data(), 1, 32));
    ref::ApplyRope(table, pairing, {&k_position, 1}, 1, 32, DenseView(k.data(), 1, 32));
    double sum = 0;
    for (size_t i = 0; i < q.size(); ++i) sum += double{q[i]} * k[i];
    return sum;
  };
  for (RopePairing pairing : {RopePairing::kInterleaved, RopePairing::kHalves}) {
    EXPECT_NEAR(score(pairing, 20, 5), score(pairing, 199, 184), 1e-5);
    EXPECT_GT(std::fabs(score(pairing, 20, 5) - score(pairing, 20, 6)), 1e-4);
  }
}

// Values computed with transformers' _compute_yarn_parameters in f64: DeepSeek-V2-Lite's
// configuration.
TEST(YarnTest, KeepsFastDimensionsAndInterpolatesSlowOnes) {
  YarnParameters yarn;
  yarn.theta = 10000;
  yarn.factor = 40;
  yarn.original_max_positions = 4096;
  const std::vector<double> plain = RopeFrequencies(10000, 64);
  const std::vector<double> frequencies = YarnFrequencies(yarn, 64);
  // The ramp's ends: floor(64 ln(4096 / (32 * 2 pi)) / (2 ln 10000)) = 10, ceil(... / (1 * 2 pi))
  // = 23.
  for (size_t i = 0; i <= 10; ++i) EXPECT_DOUBLE_EQ(frequencies[i], plain[i]);
  for (size_t i = 23; i < 32; ++i) EXPECT_DOUBLE_EQ(frequencies[i], plain[i] / 40);
  EXPECT_NEAR(frequencies[16], plain[16] / 40 * (6.0 / 13) + plain[16] * (7.0 / 13), 1e-15);
}

TEST(YarnTest, UntruncatedRampsAndEqualEndsAreFinite) {
  YarnParameters yarn;
  yarn.factor = 8;
  yarn.original_max_positions = 1024;
  yarn.truncate = false;
  for (double frequency : YarnFrequencies(yarn, 16)) EXPECT_GT(frequency, 0.0);
  yarn.beta_slow = yarn.beta_fast;
  for (double frequency : YarnFrequencies(yarn, 2)) EXPECT_TRUE(std::isfinite(frequency));
}

TEST(ElementwiseTest, LevelsGiveTheReferencesBits) {
  Rng rng(5);
  for (int64_t width : kWidths) {
    const std::vector<float> a = rng.Normals(30 * width);
    const std::vector<float> b = rng.Normals(30 * width);
    const std::vector<float> scores = rng.Normals(30, 20.0f);
    std::vector<float> sum = a, scaled = a;
    ref::Add(DenseView<const float>(a.data(), 30, width),
             DenseView<const float>(b.data(), 30, width), DenseView(sum.data(), 30, width));
    ref::ScaleBySigmoid(scores, DenseView(scaled.data(), 30, width));
    for (CpuLevel level : SupportedLevels()) {
      for (int threads : {1, 2}) {
        Context context(level, threads);
        std::vector<float> rows = a;
        Add(DenseView<const float>(rows.data(), 30, width),
            DenseView<const float>(b.data(), 30, width), DenseView(rows.data(), 30, width),
            context);
        EXPECT_TRUE(SameBits(rows, sum)) << width;
        rows = a;
        ScaleBySigmoid(scores, DenseView(rows.data(), 30, width), context);
        EXPECT_TRUE(SameBits(rows, scaled)) << width;
      }
    }
  }
}

TEST(RowTypeTest, RoundingOnceIsEnoughAndWideningIsItsInverse) {
  Rng rng(6);
  EXPECT_EQ(RowTypeOf(NumericsClass::kF32), RowType::kF32);
  EXPECT_EQ(RowTypeOf(NumericsClass::kBf16), RowType::kBf16);
  for (RowType type : {RowType::kF32, RowType::kBf16}) {
    std::vector<float> strided = rng.Normals(3 * 21);
    strided[0] = std::numeric_limits<float>::infinity();
    strided[1] = std::numeric_limits<float>::denorm_min();
    const MatrixView<const float> rows{strided.data(), 3, 17, 21};
    // An odd offset: frames do not align their rows.
    std::vector<std::byte> bytes(1 + 3 * 17 * RowTypeBytes(type));
    RoundRows(type, rows, bytes.data() + 1);
    std::vector<float> wide(3 * 17);
    WidenRows(type, bytes.data() + 1, DenseView(wide.data(), 3, 17));
    for (int64_t r = 0; r < 3; ++r) {
      for (int64_t i = 0; i < 17; ++i) {
        const float x = rows.Row(r)[i];
        EXPECT_EQ(wide[r * 17 + i], type == RowType::kF32 ? x : ToFloat(ToBf16(x)));
      }
    }
    std::vector<std::byte> again(bytes.size());
    RoundRows(type, DenseView<const float>(wide.data(), 3, 17), again.data() + 1);
    EXPECT_TRUE(std::equal(bytes.begin() + 1, bytes.end(), again.begin() + 1));
  }
}

}  // namespace
}  // namespace conclave::kernels

#include "kernels/rope.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/ref/rows.h"
#include "tests/kernels/random_rows.h"

namespace conclave::kernels {
namespace {

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

}  // namespace
}  // namespace conclave::kernels

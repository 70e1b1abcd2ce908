#include "kernels/norm.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "kernels/ref/rows.h"
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

}  // namespace
}  // namespace conclave::kernels

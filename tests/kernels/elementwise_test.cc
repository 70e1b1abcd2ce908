#include "kernels/elementwise.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <limits>
#include <vector>

#include "kernels/ref/rows.h"
#include "tests/kernels/random_rows.h"

namespace conclave::kernels {
namespace {

constexpr int64_t kWidths[] = {1, 2, 15, 16, 17, 31, 33, 96, 257, 2048};

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

#include "kernels/unpack.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "kernels/quantize.h"
#include "tests/kernels/random_rows.h"

namespace conclave::kernels {
namespace {

constexpr int64_t kOutputs = 37;
constexpr int64_t kInputs = 139;  // of an odd length, and of a last group that is not whole

std::vector<float> Unpacked(const PackedMatrix& matrix, int64_t first, int64_t count) {
  std::vector<float> values(static_cast<size_t>(count * matrix.num_inputs), -1.0f);
  UnpackRows(matrix, first, DenseView(values.data(), count, matrix.num_inputs));
  return values;
}

TEST(UnpackTest, FloatsAreThoseThatWerePacked) {
  Rng rng(1);
  std::vector<float> values = rng.Normals(kOutputs * kInputs);
  EXPECT_EQ(
      Unpacked(OwnedMatrix(WeightFormat::kF32, kOutputs, kInputs, values).view(), 0, kOutputs),
      values);
  const OwnedMatrix bf16_matrix(WeightFormat::kBf16, kOutputs, kInputs, values);
  for (float& value : values) value = ToFloat(ToBf16(value));
  EXPECT_EQ(Unpacked(bf16_matrix.view(), 0, kOutputs), values);
}

TEST(UnpackTest, IntegersAreTimesTheirScale) {
  Rng rng(2);
  for (const WeightType type : {WeightType::kInt8, WeightType::kInt4}) {
    for (const int32_t group : {32, 64, 128}) {
      const std::vector<float> values = rng.Normals(kOutputs * kInputs);
      const OwnedMatrix matrix({type, group}, kOutputs, kInputs, values);
      std::vector<float> expected;
      for (int64_t output = 0; output < kOutputs; ++output) {
        for (int64_t first = 0; first < kInputs; first += group) {
          const auto count = static_cast<size_t>(std::min<int64_t>(group, kInputs - first));
          int8_t integers[kMaxGroup];
          const float scale =
              QuantizeGroup(type, {values.data() + output * kInputs + first, count}, integers);
          for (size_t k = 0; k < count; ++k) {
            expected.push_back(scale * static_cast<float>(integers[k]));
          }
        }
      }
      EXPECT_EQ(Unpacked(matrix.view(), 0, kOutputs), expected);
    }
  }
}

TEST(UnpackTest, APartIsThatOfTheWhole) {
  Rng rng(3);
  const OwnedMatrix matrix = RandomMatrix(rng, WeightFormat::kInt4, kOutputs, kInputs);
  const std::vector<float> whole = Unpacked(matrix.view(), 0, kOutputs);
  const std::vector<float> part = Unpacked(matrix.view(), 11, 20);
  EXPECT_TRUE(std::equal(part.begin(), part.end(), whole.begin() + 11 * kInputs));
}

}  // namespace
}  // namespace conclave::kernels

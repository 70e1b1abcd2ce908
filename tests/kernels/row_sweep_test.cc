// Every number of rows from 0 to 67, at shapes of which no dimension is a multiple of the tiles, in
// every format and at every level: the bits of the reference. A row's result depends on no other
// row, so the reference of 67 rows is that of fewer too.

#include <gtest/gtest.h>

#include <cstdint>
#include <deque>
#include <memory>
#include <numeric>
#include <string>
#include <utility>
#include <vector>

#include "kernels/attention.h"
#include "kernels/ffn.h"
#include "kernels/matmul.h"
#include "kernels/ref/matmul.h"
#include "tests/kernels/random_rows.h"

namespace conclave::kernels {
namespace {

constexpr int64_t kMostRows = 67;
constexpr float kUntouched = -7.0f;

// Outputs and inputs of a matrix. Of a tile with 16 outputs a panel, 8 panels, 1 or 2 inputs a
// step or 32, 64 or 128 in a group, each shape has a part; the inputs are odd, or a multiple of 2,
// 32 or 64 and of nothing larger.
constexpr std::pair<int64_t, int64_t> kShapes[] = {{17, 1},   {33, 31},  {5, 65},    {150, 34},
                                                   {20, 129}, {31, 160}, {16, 1089}, {49, 320}};

std::vector<std::unique_ptr<Context>> Contexts() {
  std::vector<std::unique_ptr<Context>> contexts;
  for (CpuLevel level : SupportedLevels()) {
    for (int threads : {1, 3}) contexts.push_back(std::make_unique<Context>(level, threads));
  }
  return contexts;
}

// The reference is one loop over the rows, and slow: a few numbers of them will do.
bool Covers(Context& context, int64_t rows) {
  return context.level() != CpuLevel::kReference || rows <= 1 || rows == kMostRows;
}

std::string Describe(WeightFormat format, std::pair<int64_t, int64_t> shape, int64_t rows,
                     Context& context) {
  return NameOf(format) + " [" + std::to_string(shape.first) + ", " + std::to_string(shape.second) +
         "] x " + std::to_string(rows) + " " + std::string(CpuLevelName(context.level())) + " " +
         std::to_string(context.pool().num_threads()) + " threads";
}

// `expected` cut to `rows` rows of `cols`, and one row behind them that nobody may write.
std::vector<float> Expected(const std::vector<float>& all, int64_t rows, int64_t cols) {
  std::vector<float> expected(all.begin(), all.begin() + rows * cols);
  expected.resize(static_cast<size_t>((rows + 1) * cols), kUntouched);
  return expected;
}

class RowSweepTest : public ::testing::TestWithParam<WeightFormat> {};

TEST_P(RowSweepTest, Matmul) {
  const WeightFormat format = GetParam();
  const auto contexts = Contexts();
  Rng rng(1);
  for (const auto& shape : kShapes) {
    const auto [outputs, inputs] = shape;
    const OwnedMatrix weight = RandomMatrix(rng, format, outputs, inputs);
    const std::vector<float> input = rng.Normals(kMostRows * inputs);
    std::vector<float> all(static_cast<size_t>(kMostRows * outputs));
    ref::Matmul(weight.view(), nullptr, DenseView(input.data(), kMostRows, inputs),
                DenseView(all.data(), kMostRows, outputs));
    for (int64_t rows = 0; rows <= kMostRows; ++rows) {
      const std::vector<float> expected = Expected(all, rows, outputs);
      for (const auto& context : contexts) {
        if (!Covers(*context, rows)) continue;
        std::vector<float> output(expected.size(), kUntouched);
        Matmul(weight.view(), DenseView(input.data(), rows, inputs),
               DenseView(output.data(), rows, outputs), *context);
        ASSERT_TRUE(SameBits(output, expected)) << Describe(format, shape, rows, *context);
      }
    }
  }
}

TEST_P(RowSweepTest, HeadMatmul) {
  const WeightFormat format = GetParam();
  const auto contexts = Contexts();
  constexpr int64_t kHeads = 2;
  Rng rng(2);
  for (const auto& shape : kShapes) {
    const auto [outputs, inputs] = shape;
    std::deque<OwnedMatrix> owned;
    std::vector<PackedMatrix> weights;
    for (int64_t head = 0; head < kHeads; ++head) {
      owned.push_back(RandomMatrix(rng, format, outputs, inputs));
      weights.push_back(owned.back().view());
    }
    // Between the heads lies what is not theirs.
    const int64_t input_stride = inputs + 5, output_stride = outputs + 2;
    const int64_t cols = kHeads * output_stride;
    const std::vector<float> input = rng.Normals(kMostRows * kHeads * input_stride);
    const auto view = [&](int64_t rows) {
      return DenseView(input.data(), rows, kHeads * input_stride);
    };
    std::vector<float> all(static_cast<size_t>(kMostRows * cols), kUntouched);
    ref::HeadMatmul(weights, view(kMostRows), input_stride, DenseView(all.data(), kMostRows, cols),
                    output_stride);
    for (int64_t rows = 0; rows <= kMostRows; ++rows) {
      const std::vector<float> expected = Expected(all, rows, cols);
      for (const auto& context : contexts) {
        if (!Covers(*context, rows)) continue;
        std::vector<float> output(expected.size(), kUntouched);
        HeadMatmul(weights, view(rows), input_stride, DenseView(output.data(), rows, cols),
                   output_stride, *context);
        ASSERT_TRUE(SameBits(output, expected)) << Describe(format, shape, rows, *context);
      }
    }
  }
}

// A batch in which one expert has no row, one has 1, and so on to 67, in an order that puts few
// beside many.
TEST_P(RowSweepTest, Experts) {
  const WeightFormat format = GetParam();
  const auto contexts = Contexts();
  constexpr int64_t kExperts = kMostRows + 1, kRows = kExperts * kMostRows / 2;
  std::vector<int32_t> first_row = {0};
  for (int64_t expert = 0; expert < kExperts; ++expert) {
    first_row.push_back(first_row.back() + static_cast<int32_t>(expert * 29 % kExperts));
  }
  ASSERT_EQ(first_row.back(), kRows);
  Rng rng(3);
  for (const auto& shape : {std::pair<int64_t, int64_t>{1, 1}, {33, 17}, {31, 129}, {160, 34}}) {
    const auto [intermediate, hidden] = shape;
    // Some weights for all: each expert's neighbours have others.
    std::deque<OwnedMatrix> owned;
    std::vector<FfnWeights> distinct, experts;
    for (int i = 0; i < 3; ++i) {
      const auto& gate = owned.emplace_back(RandomMatrix(rng, format, intermediate, hidden));
      const auto& up = owned.emplace_back(RandomMatrix(rng, format, intermediate, hidden));
      const auto& down = owned.emplace_back(RandomMatrix(rng, format, hidden, intermediate));
      distinct.push_back({gate.view(), up.view(), down.view()});
    }
    for (size_t expert = 0; expert < kExperts; ++expert) experts.push_back(distinct[expert % 3]);
    const std::vector<float> input = rng.Normals(kRows * hidden);
    const auto in = DenseView(input.data(), kRows, hidden);
    std::vector<float> expected(input.size());
    ref::ExpertFfn(experts, {first_row, in, DenseView(expected.data(), kRows, hidden)});
    for (const auto& context : contexts) {
      std::vector<float> output(input.size(), kUntouched);
      ExpertFfn(experts, {first_row, in, DenseView(output.data(), kRows, hidden)}, *context);
      ASSERT_TRUE(SameBits(output, expected)) << Describe(format, shape, kRows, *context);
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Formats, RowSweepTest, ::testing::ValuesIn(kAllFormats),
                         [](const auto& info) {
                           std::string name = NameOf(info.param);
                           for (char& c : name) c = c == '/' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace conclave::kernels

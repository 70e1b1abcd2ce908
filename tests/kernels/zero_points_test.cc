// Int4 weights that somebody else has quantised: they stay what they are, with and without zero
// points, on every level.
#include <gtest/gtest.h>

#include <cmath>
#include <deque>
#include <vector>

#include "kernels/attention.h"
#include "kernels/ffn.h"
#include "kernels/matmul.h"
#include "kernels/panel.h"
#include "kernels/quantize.h"
#include "kernels/ref/matmul.h"
#include "kernels/unpack.h"
#include "tests/kernels/random_rows.h"

namespace conclave::kernels {
namespace {

constexpr WeightFormat kImported[] = {
    {WeightType::kInt4, 32},       {WeightType::kInt4, 64},       {WeightType::kInt4, 128},
    {WeightType::kInt4, 32, true}, {WeightType::kInt4, 64, true}, {WeightType::kInt4, 128, true}};

std::vector<float> Reference(const PackedMatrix& weight, const std::vector<float>& input,
                             int64_t rows) {
  std::vector<float> output(static_cast<size_t>(rows * weight.num_outputs));
  ref::Matmul(weight, nullptr, DenseView<const float>(input.data(), rows, weight.num_inputs),
              DenseView(output.data(), rows, weight.num_outputs));
  return output;
}

std::vector<float> RunMatmul(const PackedMatrix& weight, const std::vector<float>& input,
                             int64_t rows, CpuLevel level, int threads) {
  Context context(level, threads);
  std::vector<float> output(static_cast<size_t>(rows * weight.num_outputs), -7.0f);
  Matmul(weight, DenseView<const float>(input.data(), rows, weight.num_inputs),
         DenseView(output.data(), rows, weight.num_outputs), context);
  return output;
}

TEST(ZeroPointsTest, EveryIntegerScaleAndZeroPointIsKept) {
  Rng rng(1);
  for (const WeightFormat format : kImported) {
    for (const auto& [outputs, inputs] : {std::pair<int64_t, int64_t>{37, 75}, {16, 256}, {1, 1}}) {
      const OwnedInt4Rows rows(rng, format, outputs, inputs);
      const OwnedMatrix matrix(format, rows);
      std::vector<float> unpacked(static_cast<size_t>(outputs * inputs));
      UnpackRows(matrix.view(), 0, DenseView(unpacked.data(), outputs, inputs));
      for (int64_t n = 0; n < outputs; ++n) {
        const std::byte* panel = matrix.view().data + static_cast<size_t>(n / kPanelOutputs) *
                                                          PanelBytes(format, inputs);
        for (int64_t k = 0; k < NumSteps(format, inputs) * format.group; ++k) {
          const GroupPanel group(format, panel + k / format.group * StepPanelBytes(format));
          const int value = group.value(k % format.group, n % kPanelOutputs);
          if (k >= inputs) {
            ASSERT_EQ(value, 0) << NameOf(format) << " padding " << k;
            continue;
          }
          const float scale = rows.Scale(n, k, format.group);
          ASSERT_EQ(value, rows.Integer(n, k, format.group)) << NameOf(format) << " " << k;
          ASSERT_EQ(group.scale(n % kPanelOutputs), scale);
          ASSERT_EQ(unpacked[static_cast<size_t>(n * inputs + k)],
                    scale * static_cast<float>(value));
        }
      }
    }
  }
}

// The specification, in plain loops and without panels: what the reference must give bit for bit,
// and what a sum in f64 of the same quantised inputs confirms.
TEST(ZeroPointsTest, ReferenceIsTheChainOfExactGroupSums) {
  Rng rng(2);
  for (const WeightFormat format : kImported) {
    const int64_t rows = 3, outputs = 19, inputs = 331;
    const OwnedInt4Rows weights(rng, format, outputs, inputs);
    const OwnedMatrix matrix(format, weights);
    const std::vector<float> input = rng.Normals(rows * inputs);
    const std::vector<float> output = Reference(matrix.view(), input, rows);
    for (int64_t m = 0; m < rows; ++m) {
      for (int64_t n = 0; n < outputs; ++n) {
        float chain = 0;
        double exact = 0, magnitude = 0;
        for (int64_t first = 0; first < inputs; first += format.group) {
          const int64_t count = std::min<int64_t>(format.group, inputs - first);
          int8_t x[kMaxGroup];
          const float scale =
              QuantizeGroup(WeightType::kInt8,
                            {input.data() + m * inputs + first, static_cast<size_t>(count)}, x);
          int64_t sum = 0;
          for (int64_t k = 0; k < count; ++k) {
            sum += int64_t{x[k]} * weights.Integer(n, first + k, format.group);
          }
          const float weight_scale = weights.Scale(n, first, format.group);
          chain = std::fma(static_cast<float>(sum), scale * weight_scale, chain);
          const double term = static_cast<double>(sum) * scale * weight_scale;
          exact += term;
          magnitude += std::fabs(term);
        }
        ASSERT_TRUE(SameBits({output[static_cast<size_t>(m * outputs + n)]}, {chain}))
            << NameOf(format);
        EXPECT_NEAR(chain, exact, magnitude * 0x1p-20);
      }
    }
  }
}

TEST(ZeroPointsTest, LevelsAndThreadsGiveTheReferencesBits) {
  Rng rng(3);
  const int64_t rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 25, 40, 67};
  size_t next = 0;
  for (const WeightFormat format : kZeroFormats) {
    for (const int64_t inputs : {1, 15, 31, 33, 96, 257, 4001}) {
      for (const int64_t outputs : {1, 15, 17, 100, 513}) {
        const OwnedMatrix weight = RandomMatrix(rng, format, outputs, inputs);
        const int64_t num_rows = rows[next++ % std::size(rows)];
        const std::vector<float> input = rng.Normals(num_rows * inputs);
        const std::vector<float> expected = Reference(weight.view(), input, num_rows);
        for (const CpuLevel level : SupportedLevels()) {
          for (const int threads : {1, 3}) {
            ASSERT_TRUE(
                SameBits(RunMatmul(weight.view(), input, num_rows, level, threads), expected))
                << NameOf(format) << " [" << outputs << ", " << inputs << "] x " << num_rows << " "
                << CpuLevelName(level);
          }
        }
      }
    }
  }
}

TEST(ZeroPointsTest, EveryNumberOfRowsGivesARowTheSameBits) {
  Rng rng(4);
  for (const WeightFormat format : kZeroFormats) {
    const OwnedMatrix weight = RandomMatrix(rng, format, 150, 161);
    const std::vector<float> input = rng.Normals(67 * 161);
    const std::vector<float> all = Reference(weight.view(), input, 67);
    for (const CpuLevel level : SupportedLevels()) {
      for (int64_t rows = 1; rows <= 67; ++rows) {
        ASSERT_TRUE(SameBits(RunMatmul(weight.view(), input, rows, level, 2),
                             {all.begin(), all.begin() + rows * 150}))
            << NameOf(format) << " " << CpuLevelName(level) << " " << rows;
      }
    }
  }
}

// The largest sums there are: every input at 127 or -127, every weight at 15 or -15.
TEST(ZeroPointsTest, TheLargestSumsAreExact) {
  Rng rng(5);
  for (const WeightFormat format : kZeroFormats) {
    for (const int sign : {1, -1}) {
      OwnedInt4Rows rows(rng, format, 16, 256);
      rows.integers.assign(rows.integers.size(), sign > 0 ? 15 : 0);
      rows.zeros.assign(rows.zeros.size(), sign > 0 ? 0 : 15);
      rows.scales.assign(rows.scales.size(), 1.0f);
      const OwnedMatrix weight(format, rows);
      const std::vector<float> input(256, 1.0f);
      const float unit = 1.0f / 127.0f;
      float wanted = 0;
      for (int64_t g = 0; g < 256 / format.group; ++g) {
        wanted = std::fma(static_cast<float>(sign * 127 * 15 * format.group), unit, wanted);
      }
      for (const CpuLevel level : SupportedLevels()) {
        EXPECT_EQ(RunMatmul(weight.view(), input, 1, level, 1), std::vector<float>(16, wanted))
            << NameOf(format) << " " << CpuLevelName(level);
      }
    }
  }
}

TEST(ZeroPointsTest, ZeroPointsOf8AreNone) {
  Rng rng(6);
  for (const int32_t group : {32, 64, 128}) {
    const WeightFormat with{WeightType::kInt4, group, true}, without{WeightType::kInt4, group};
    OwnedInt4Rows rows(rng, with, 33, 300);
    rows.zeros.assign(rows.zeros.size(), 8);
    OwnedInt4Rows none = rows;
    none.view.zeros = nullptr;
    const std::vector<float> input = rng.Normals(5 * 300);
    const OwnedMatrix one(with, rows), other(without, none);
    EXPECT_TRUE(SameBits(Reference(one.view(), input, 5), Reference(other.view(), input, 5)));
    for (const CpuLevel level : SupportedLevels()) {
      EXPECT_TRUE(SameBits(RunMatmul(one.view(), input, 5, level, 1),
                           RunMatmul(other.view(), input, 5, level, 1)));
    }
  }
}

TEST(ZeroPointsTest, PanelsPackedInPartsAreThoseOfTheWhole) {
  Rng rng(7);
  for (const WeightFormat format : kImported) {
    const OwnedInt4Rows rows(rng, format, 37, 75);
    const OwnedMatrix whole(format, rows);
    std::vector<std::byte> parts(PackedBytes(format, 37, 75));
    const auto part = [&](int64_t begin, int64_t end) {
      const Int4Rows view{DenseView(rows.view.integers.Row(begin), end - begin, 75),
                          DenseView(rows.view.scales.Row(begin), end - begin, rows.groups),
                          format.zeros ? rows.view.zeros + begin * rows.groups : nullptr};
      PackInt4Rows(format, 75, begin, view, parts.data());
    };
    part(20, 37);
    part(0, 20);
    EXPECT_EQ(std::memcmp(parts.data(), whole.view().data, parts.size()), 0) << NameOf(format);
    EXPECT_EQ(parts.size(), PackedBytes({WeightType::kInt4, format.group}, 37, 75));
  }
}

// Of the experts of one batch some matrices have zero points and others not.
TEST(ZeroPointsTest, ExpertsMayDifferInHavingThem) {
  Rng rng(8);
  const int64_t intermediate = 130, hidden = 96;
  for (const int32_t group : {32, 64, 128}) {
    std::deque<OwnedMatrix> owned;
    std::vector<FfnWeights> experts;
    for (int e = 0; e < 8; ++e) {
      const auto matrix = [&](bool zeros, int64_t outputs, int64_t inputs) {
        owned.push_back(RandomMatrix(rng, {WeightType::kInt4, group, zeros}, outputs, inputs));
        return owned.back().view();
      };
      const PackedMatrix gate = matrix(e & 1, intermediate, hidden);
      const PackedMatrix up = matrix(e & 2, intermediate, hidden);
      experts.push_back({gate, up, matrix(e & 4, hidden, intermediate)});
    }
    const std::vector<int32_t> first_row = {0, 1, 4, 4, 11, 64, 66, 67, 80};
    const std::vector<float> input = rng.Normals(80 * hidden);
    const auto in = DenseView<const float>(input.data(), 80, hidden);
    std::vector<float> expected(input.size());
    ref::ExpertFfn(experts, {first_row, in, DenseView(expected.data(), 80, hidden)});
    for (const CpuLevel level : SupportedLevels()) {
      for (const int threads : {1, 2}) {
        Context context(level, threads);
        std::vector<float> output(input.size(), -1.0f);
        ExpertFfn(experts, {first_row, in, DenseView(output.data(), 80, hidden)}, context);
        EXPECT_TRUE(SameBits(output, expected)) << group << " " << CpuLevelName(level);
      }
    }
  }
}

TEST(ZeroPointsTest, HeadMatmulGivesTheReferencesBits) {
  Rng rng(9);
  for (const WeightFormat format : kZeroFormats) {
    std::deque<OwnedMatrix> owned;
    std::vector<PackedMatrix> weights;
    for (int h = 0; h < 3; ++h) {
      owned.push_back(RandomMatrix(rng, format, 96, 133));
      weights.push_back(owned.back().view());
    }
    const std::vector<float> input = rng.Normals(7 * 3 * 133);
    const auto in = DenseView<const float>(input.data(), 7, 3 * 133);
    std::vector<float> expected(7 * 3 * 96);
    ref::HeadMatmul(weights, in, 133, DenseView(expected.data(), 7, 3 * 96), 96);
    for (const CpuLevel level : SupportedLevels()) {
      Context context(level, 2);
      std::vector<float> output(expected.size());
      HeadMatmul(weights, in, 133, DenseView(output.data(), 7, 3 * 96), 96, context);
      EXPECT_TRUE(SameBits(output, expected)) << NameOf(format) << " " << CpuLevelName(level);
    }
  }
}

}  // namespace
}  // namespace conclave::kernels

#include "kernels/matmul.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <deque>
#include <limits>
#include <vector>

#include "kernels/attention.h"
#include "kernels/panel.h"
#include "kernels/quantize.h"
#include "kernels/ref/matmul.h"
#include "tests/kernels/random_rows.h"

namespace conclave::kernels {
namespace {

// An input view with a stride beyond its columns, filled with values that must not be read.
struct StridedRows {
  StridedRows(Rng& rng, int64_t num_rows, int64_t num_cols)
      : data(static_cast<size_t>(num_rows * (num_cols + 3)),
             std::numeric_limits<float>::quiet_NaN()),
        view{data.data(), num_rows, num_cols, num_cols + 3} {
    for (int64_t r = 0; r < num_rows; ++r) {
      for (int64_t i = 0; i < num_cols; ++i) data[r * (num_cols + 3) + i] = rng.Normal();
    }
  }
  std::vector<float> data;
  MatrixView<const float> view;
};

std::vector<float> RunMatmul(const PackedMatrix& weight, const float* bias,
                             MatrixView<const float> input, CpuLevel level, int threads) {
  Context context(level, threads);
  std::vector<float> output(static_cast<size_t>(input.rows * weight.num_outputs), -7.0f);
  const MatrixView<float> view = DenseView(output.data(), input.rows, weight.num_outputs);
  if (bias != nullptr) {
    MatmulBias(weight, bias, input, view, context);
  } else {
    Matmul(weight, input, view, context);
  }
  return output;
}

std::vector<float> Reference(const PackedMatrix& weight, const float* bias,
                             MatrixView<const float> input) {
  std::vector<float> output(static_cast<size_t>(input.rows * weight.num_outputs));
  ref::Matmul(weight, bias, input, DenseView(output.data(), input.rows, weight.num_outputs));
  return output;
}

// Of the sum of all magnitudes: 257 sums of 24 bits; two operands rounded to 8 bits each; an
// operand off by at most a 254th or a 16th of the largest of its group, of random sign.
double Tolerance(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return 0x1p-18;
    case WeightType::kBf16:
      return 0x1p-8;
    case WeightType::kInt8:
      return 0x1p-7;
    case WeightType::kInt4:
      break;
  }
  return 0x1p-4;
}

TEST(MatmulTest, ReferenceIsNearTheExactProduct) {
  Rng rng(1);
  for (WeightFormat format : kAllFormats) {
    const int64_t inputs = 257;
    const std::vector<float> values = rng.Normals(5 * inputs);
    const OwnedMatrix weight(format, 5, inputs, values);
    const StridedRows input(rng, 3, inputs);
    const std::vector<float> output = Reference(weight.view(), nullptr, input.view);
    for (int64_t m = 0; m < 3; ++m) {
      for (int64_t n = 0; n < 5; ++n) {
        double sum = 0, magnitude = 0;
        for (int64_t k = 0; k < inputs; ++k) {
          const double term = static_cast<double>(input.view.Row(m)[k]) * values[n * inputs + k];
          sum += term;
          magnitude += std::fabs(term);
        }
        const double tolerance = magnitude * Tolerance(format.type);
        EXPECT_NEAR(output[m * 5 + n], sum, tolerance);
      }
    }
  }
}

TEST(MatmulTest, LevelsAndThreadsGiveTheReferencesBits) {
  Rng rng(2);
  const int64_t rows[] = {1, 2, 3, 4, 5, 6, 7, 8, 11, 12, 13, 25, 40};
  size_t next = 0;
  for (WeightFormat format : kAllFormats) {
    for (int64_t inputs : {1, 2, 3, 15, 16, 17, 31, 33, 96, 257}) {
      for (int64_t outputs : {1, 15, 16, 17, 100, 513}) {
        const OwnedMatrix weight = RandomMatrix(rng, format, outputs, inputs);
        const int64_t num_rows = rows[next++ % std::size(rows)];
        const StridedRows input(rng, num_rows, inputs);
        const std::vector<float> bias = rng.Normals(outputs);
        const std::vector<float> plain = Reference(weight.view(), nullptr, input.view);
        const std::vector<float> biased = Reference(weight.view(), bias.data(), input.view);
        for (CpuLevel level : SupportedLevels()) {
          for (int threads : {1, 2, 3}) {
            SCOPED_TRACE(NameOf(format) + " [" + std::to_string(outputs) + ", " +
                         std::to_string(inputs) + "] x " + std::to_string(num_rows) + " " +
                         std::string(CpuLevelName(level)));
            ASSERT_TRUE(
                SameBits(RunMatmul(weight.view(), nullptr, input.view, level, threads), plain));
            ASSERT_TRUE(SameBits(RunMatmul(weight.view(), bias.data(), input.view, level, threads),
                                 biased));
          }
        }
      }
    }
  }
}

TEST(MatmulTest, EveryNumberOfRowsGivesARowTheSameBits) {
  Rng rng(3);
  for (WeightFormat format : kAllFormats) {
    const OwnedMatrix weight = RandomMatrix(rng, format, 150, 61);
    const StridedRows input(rng, 40, 61);
    const std::vector<float> all = Reference(weight.view(), nullptr, input.view);
    for (CpuLevel level : SupportedLevels()) {
      for (int64_t num_rows = 1; num_rows <= 40; ++num_rows) {
        const MatrixView<const float> part{input.view.data, num_rows, 61, input.view.stride};
        const std::vector<float> output = RunMatmul(weight.view(), nullptr, part, level, 2);
        ASSERT_TRUE(SameBits(output, {all.begin(), all.begin() + num_rows * 150}))
            << NameOf(format) << " " << CpuLevelName(level) << " " << num_rows;
      }
    }
  }
}

// Enough work for every thread to get parts: smaller products run on the caller alone.
TEST(MatmulTest, ThreadsShareALargeProduct) {
  Rng rng(8);
  for (WeightFormat format : kAllFormats) {
    const OwnedMatrix weight = RandomMatrix(rng, format, 2500, 300);
    const StridedRows input(rng, 5, 300);
    const std::vector<float> bias = rng.Normals(2500);
    const std::vector<float> expected = Reference(weight.view(), bias.data(), input.view);
    for (CpuLevel level : SupportedLevels()) {
      for (int threads : {1, 2, 3}) {
        EXPECT_TRUE(
            SameBits(RunMatmul(weight.view(), bias.data(), input.view, level, threads), expected))
            << NameOf(format) << " " << CpuLevelName(level) << " " << threads;
      }
    }
  }
}

// More steps than one run of RunChain, with enough rows for it to be cut: chains resume.
TEST(MatmulTest, LongChainsResumeWithTheSameBits) {
  Rng rng(4);
  for (WeightFormat format : kAllFormats) {
    const OwnedMatrix weight = RandomMatrix(rng, format, 33, 4001);
    for (const int64_t rows : {9, 13, 50}) {
      const StridedRows input(rng, rows, 4001);
      const std::vector<float> expected = Reference(weight.view(), nullptr, input.view);
      for (CpuLevel level : SupportedLevels()) {
        EXPECT_TRUE(SameBits(RunMatmul(weight.view(), nullptr, input.view, level, 2), expected))
            << NameOf(format) << " " << CpuLevelName(level) << " " << rows;
      }
    }
  }
}

TEST(MatmulTest, TinyHugeAndSpecialValuesGiveTheReferencesBits) {
  Rng rng(5);
  const float specials[] = {0.0f,
                            -0.0f,
                            0x1p-130f,
                            -0x1p-127f,
                            0x1p-126f,
                            0x1p-75f,
                            -0x1p-76f,
                            0x1p-63f,
                            0x1p+100f,
                            -0x1p+90f,
                            std::numeric_limits<float>::max(),
                            std::numeric_limits<float>::infinity(),
                            std::numeric_limits<float>::quiet_NaN()};
  for (WeightFormat format : kAllFormats) {
    for (int64_t kinds : {10, 11, 13}) {  // without overflow, with it, with infinities and NaN
      std::vector<float> values(40 * 24);
      for (float& value : values) value = specials[rng.Below(kinds)];
      const OwnedMatrix weight(format, 40, 24, values);
      std::vector<float> input(20 * 24);
      for (float& value : input) value = specials[rng.Below(kinds)];
      const auto view = DenseView<const float>(input.data(), 20, 24);
      const std::vector<float> expected = Reference(weight.view(), nullptr, view);
      for (CpuLevel level : SupportedLevels()) {
        EXPECT_TRUE(SameBits(RunMatmul(weight.view(), nullptr, view, level, 1), expected))
            << NameOf(format) << " " << CpuLevelName(level) << " " << kinds;
      }
    }
  }
}

// The largest products of integers that there are, of one sign and of both: no level saturates.
TEST(MatmulTest, TheLargestIntegersGiveTheReferencesBits) {
  Rng rng(9);
  for (WeightFormat format : kIntegerFormats) {
    for (const bool mixed : {false, true}) {
      const auto extreme = [&] { return mixed && rng.Below(2) == 0 ? -1.0f : 1.0f; };
      for (const float sign : {1.0f, -1.0f}) {
        std::vector<float> values(40 * 256), inputs(13 * 256);
        for (float& value : values) value = extreme();
        for (float& value : inputs) value = sign * extreme();
        const OwnedMatrix weight(format, 40, 256, values);
        const auto view = DenseView<const float>(inputs.data(), 13, 256);
        const std::vector<float> expected = Reference(weight.view(), nullptr, view);
        for (CpuLevel level : SupportedLevels()) {
          EXPECT_TRUE(SameBits(RunMatmul(weight.view(), nullptr, view, level, 1), expected))
              << NameOf(format) << " " << CpuLevelName(level) << " " << mixed << " " << sign;
        }
      }
    }
  }
}

TEST(MatmulTest, PacksEveryValueWhereThePanelHasIt) {
  Rng rng(7);
  for (WeightFormat format : kFloatFormats) {
    for (const auto& [outputs, inputs] : {std::pair<int64_t, int64_t>{37, 75}, {16, 32}, {1, 1}}) {
      const std::vector<float> values = rng.Normals(outputs * inputs);
      const OwnedMatrix matrix(format, outputs, inputs, values);
      int64_t num_other = 0;  // elements that are not zero
      const int64_t elements = static_cast<int64_t>(PackedBytes(format, outputs, inputs)) /
                               (format == WeightFormat::kF32 ? 4 : 2);
      for (int64_t i = 0; i < elements; ++i) {
        num_other += PanelValue(format, matrix.view().data, i) != 0;
      }
      EXPECT_EQ(num_other, outputs * inputs);  // padding is zero
      for (int64_t output = 0; output < outputs; ++output) {
        const std::byte* panel = matrix.view().data + static_cast<size_t>(output / kPanelOutputs) *
                                                          PanelBytes(format, inputs);
        for (int64_t input = 0; input < inputs; ++input) {
          const float value = values[static_cast<size_t>(output * inputs + input)];
          const float wanted = format == WeightFormat::kF32 ? value : ToFloat(ToBf16(value));
          ASSERT_EQ(PanelValue(format, panel, PanelIndex(format, input, output % kPanelOutputs)),
                    wanted)
              << NameOf(format) << " " << output << " " << input;
        }
      }
    }
  }
}

TEST(MatmulTest, PacksEveryGroupWhereThePanelHasIt) {
  Rng rng(9);
  for (WeightFormat format : kIntegerFormats) {
    for (const auto& [outputs, inputs] : {std::pair<int64_t, int64_t>{37, 75}, {16, 256}, {1, 1}}) {
      const std::vector<float> values = rng.Normals(outputs * inputs);
      const OwnedMatrix matrix(format, outputs, inputs, values);
      for (int64_t output = 0; output < outputs; ++output) {
        const std::byte* panel = matrix.view().data + static_cast<size_t>(output / kPanelOutputs) *
                                                          PanelBytes(format, inputs);
        for (int64_t first = 0; first < inputs; first += format.group) {
          const int64_t count = std::min<int64_t>(format.group, inputs - first);
          std::vector<int8_t> quantized(static_cast<size_t>(format.group));
          const float scale = QuantizeGroup(
              format.type, {values.data() + output * inputs + first, static_cast<size_t>(count)},
              quantized.data());
          const GroupPanel group(format, panel + first / format.group * StepPanelBytes(format));
          ASSERT_EQ(group.scale(output % kPanelOutputs), scale) << NameOf(format);
          for (int64_t k = 0; k < format.group; ++k) {  // zeros beyond the inputs
            ASSERT_EQ(group.value(k, output % kPanelOutputs), quantized[static_cast<size_t>(k)])
                << NameOf(format) << " " << output << " " << first + k;
          }
        }
      }
    }
  }
}

TEST(MatmulTest, PanelsPackedInPartsAreThoseOfTheWhole) {
  Rng rng(6);
  for (WeightFormat format : kAllFormats) {
    const std::vector<float> values = rng.Normals(37 * 11);
    const OwnedMatrix whole(format, 37, 11, values);
    std::vector<std::byte> parts(PackedBytes(format, 37, 11));
    PackRows(format, 11, 20, DenseView(values.data() + 20 * 11, 17, 11), parts.data());
    PackRows(format, 11, 0, DenseView(values.data(), 20, 11), parts.data());
    EXPECT_EQ(std::memcmp(parts.data(), whole.view().data, parts.size()), 0);
    EXPECT_EQ(parts.size() % 64, 0u);
  }
}

TEST(HeadMatmulTest, LevelsGiveTheReferencesBits) {
  Rng rng(7);
  for (WeightFormat format : kAllFormats) {
    for (int64_t num_heads : {1, 3, 4}) {
      std::deque<OwnedMatrix> owned;
      std::vector<PackedMatrix> weights;
      for (int64_t h = 0; h < num_heads; ++h) {
        owned.push_back(RandomMatrix(rng, format, 96, 33));
        weights.push_back(owned.back().view());
      }
      const int64_t input_stride =
          33 + 8;  // a head's other columns (MLA: the rotated part) lie between
      const StridedRows input(rng, 7, num_heads * input_stride);
      std::vector<float> expected(static_cast<size_t>(7 * num_heads * 100), 3.0f);
      const std::vector<float> untouched = expected;
      ref::HeadMatmul(weights, input.view, input_stride,
                      DenseView(expected.data(), 7, num_heads * 100), 100);
      for (CpuLevel level : SupportedLevels()) {
        for (int threads : {1, 2, 3}) {
          Context context(level, threads);
          std::vector<float> output = untouched;
          HeadMatmul(weights, input.view, input_stride,
                     DenseView(output.data(), 7, num_heads * 100), 100, context);
          EXPECT_TRUE(SameBits(output, expected)) << NameOf(format) << " " << CpuLevelName(level);
        }
      }
    }
  }
}

}  // namespace
}  // namespace conclave::kernels

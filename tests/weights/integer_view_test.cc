// How the words, scales and zero points of a matrix become numbers, for shapes that no model of the
// tests has: several groups longer than the kernels', and sides that are no multiple of a word.
#include "shared/weights/integer_view.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <filesystem>
#include <iterator>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "shared/weights/shard_set.h"
#include "tests/support/temp_dir.h"
#include "tests/weights/int4_checkpoint.h"

namespace conclave::weights {
namespace {

using ::testing::HasSubstr;
using testing::Int4Layout;
using testing::Int4Matrix;
using testing::Int4Options;
using testing::kInt4Layouts;
using testing::StoredCheckpoint;
using testing::TempDir;

constexpr char kName[] = "m.weight";

// Of F16: subnormal, zero, normal, the largest.
constexpr uint16_t kScaleBits[] = {0x0001, 0x83ff, 0x0000, 0x3555, 0x8000, 0xb801, 0x7bff};

float HalfToFloat(uint16_t bits) {
  const int exponent = bits >> 10 & 31, mantissa = bits & 0x3ff;
  const float magnitude = exponent == 0
                              ? std::ldexp(static_cast<float>(mantissa), -24)
                              : std::ldexp(static_cast<float>(mantissa + 0x400), exponent - 25);
  return (bits & 0x8000) != 0 ? -magnitude : magnitude;
}

struct Written {
  StoredCheckpoint checkpoint;
  Int4Matrix matrix;
  IntegerStorage storage;
};

// A matrix of random integers and zero points; neighbouring groups have different scales.
Written Random(int64_t rows, int64_t columns, const Int4Options& options) {
  std::mt19937_64 random(7);
  Written written;
  Int4Matrix& m = written.matrix;
  m.rows = rows;
  m.columns = columns;
  m.group = options.group == -1 ? columns : options.group;
  m.groups = (columns + m.group - 1) / m.group;
  for (int64_t i = 0; i < rows * columns; ++i) m.integers.push_back(random() % 16);
  const bool less_1 = options.layout == Int4Layout::kGptq;  // which cannot say 0
  std::vector<uint16_t> bits;                               // [rows, groups]
  for (int64_t i = 0; i < rows * m.groups; ++i) {
    bits.push_back(kScaleBits[static_cast<size_t>(i) % std::size(kScaleBits)]);
    m.scales.push_back(HalfToFloat(bits.back()));
    m.zeros.push_back(options.zeros ? static_cast<uint8_t>(less_1 + random() % (16 - less_1)) : 8);
  }
  testing::PutInt4(written.checkpoint, kName, m, options);
  const bool compressed = options.layout == Int4Layout::kCompressedTensors;
  std::string& scales =
      written.checkpoint.tensors.at(compressed ? "m.weight_scale" : "m.scales").data;
  for (int64_t row = 0; row < rows; ++row) {
    for (int64_t group = 0; group < m.groups; ++group) {
      const int64_t at = compressed ? row * m.groups + group : group * rows + row;
      std::memcpy(scales.data() + 2 * at, &bits[static_cast<size_t>(row * m.groups + group)], 2);
    }
  }
  written.storage = {.layout = static_cast<IntegerLayout>(static_cast<int>(options.layout) + 1),
                     .group = options.group == -1 ? 0 : options.group,
                     .zeros = options.zeros};
  return written;
}

class IntegerViewTest : public ::testing::TestWithParam<Int4Layout> {
 protected:
  absl::StatusOr<IntegerView> Make(const Written& written) {
    std::filesystem::remove_all(dir_.path() / "c");
    written.checkpoint.Write(dir_.path() / "c");
    auto shards = ShardSet::Open(dir_.path() / "c");
    EXPECT_TRUE(shards.ok()) << shards.status();
    shards_ = *std::move(shards);
    std::set<std::string> used;
    auto view = IntegerView::Make(kName, written.matrix.rows, written.matrix.columns, shards_,
                                  written.storage, &used);
    if (view.ok()) {
      EXPECT_EQ(used.size(), shards_.tensors().size());
    }
    return view;
  }

  // Reads rows [first, first + count) as integers and as floats.
  static void ExpectRows(const IntegerView& view, const Int4Matrix& m, int64_t first,
                         int64_t count) {
    const int64_t kernel_group = view.format().group;
    const int64_t groups = (m.columns + kernel_group - 1) / kernel_group;
    Int4Values values;
    view.ReadIntegers(first, count, values);
    std::vector<float> floats(static_cast<size_t>(count * m.columns));
    view.ReadFloats(first, count, floats);
    ASSERT_EQ(values.integers.size(), floats.size());
    ASSERT_EQ(values.scales.size(), static_cast<size_t>(count * groups));
    ASSERT_EQ(values.zeros.size(), view.format().zeros ? values.scales.size() : 0);
    for (int64_t r = 0; r < count; ++r) {
      for (int64_t k = 0; k < m.columns; ++k) {
        const auto at = static_cast<size_t>((first + r) * m.groups + k / m.group);
        const auto read = static_cast<size_t>(r * groups + k / kernel_group);
        const auto i = static_cast<size_t>(r * m.columns + k);
        const int integer = m.integers[static_cast<size_t>((first + r) * m.columns + k)];
        ASSERT_EQ(values.integers[i], integer) << first + r << ", " << k;
        ASSERT_EQ(std::bit_cast<uint32_t>(values.scales[read]),
                  std::bit_cast<uint32_t>(m.scales[at]))
            << first + r << ", " << k;
        if (view.format().zeros) {
          ASSERT_EQ(values.zeros[read], m.zeros[at]) << first + r << ", " << k;
        }
        ASSERT_EQ(std::bit_cast<uint32_t>(floats[i]),
                  std::bit_cast<uint32_t>(m.scales[at] * static_cast<float>(integer - m.zeros[at])))
            << first + r << ", " << k;
      }
    }
  }

  TempDir dir_;
  ShardSet shards_;
};
INSTANTIATE_TEST_SUITE_P(Layouts, IntegerViewTest, ::testing::ValuesIn(kInt4Layouts),
                         [](const auto& info) {
                           std::string name = testing::NameOf(info.param);
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST_P(IntegerViewTest, SidesNeedNotBeAMultipleOfAWord) {
  for (const int64_t group : {32, 64, -1}) {
    for (const bool zeros : {true, false}) {
      if (!zeros && GetParam() == Int4Layout::kAwq) continue;
      SCOPED_TRACE(std::to_string(group) + (zeros ? " zeros" : ""));
      const Written written =
          Random(13, 45, {.layout = GetParam(), .group = group, .zeros = zeros});
      const auto view = Make(written);
      ASSERT_TRUE(view.ok()) << view.status();
      EXPECT_EQ(view->Check(), absl::OkStatus());
      EXPECT_EQ(view->format().group, group == -1 ? 128 : group);
      for (const auto& [first, count] :
           {std::pair<int64_t, int64_t>{0, 13}, {0, 1}, {3, 7}, {7, 2}, {8, 5}, {12, 1}, {5, 0}}) {
        ExpectRows(*view, written.matrix, first, count);
      }
    }
  }
}

// One group of the checkpoint is several of the kernels', and the last of each may be cut short.
TEST_P(IntegerViewTest, GroupsLongerThanTheKernelsKeepTheirScales) {
  struct Case {
    int64_t columns, group;
  };
  for (const Case& each : {Case{512, 256},
                           {300, 256},
                           {600, 256},
                           {768, 384},
                           {800, 384},
                           {1000, 384},
                           {300, 128},
                           {300, -1},
                           {384, -1}}) {
    for (const bool zeros : {true, false}) {
      if (!zeros && GetParam() == Int4Layout::kAwq) continue;
      SCOPED_TRACE(std::to_string(each.columns) + " in " + std::to_string(each.group) +
                   (zeros ? " zeros" : ""));
      const Written written =
          Random(11, each.columns, {.layout = GetParam(), .group = each.group, .zeros = zeros});
      const auto view = Make(written);
      ASSERT_TRUE(view.ok()) << view.status();
      EXPECT_EQ(view->Check(), absl::OkStatus());
      EXPECT_EQ(view->format().group, 128);
      ExpectRows(*view, written.matrix, 0, 11);
      ExpectRows(*view, written.matrix, 6, 3);
    }
  }
}

// A word too few or too many is another matrix.
TEST_P(IntegerViewTest, OtherSidesAreRefused) {
  const Written whole = Random(13, 45, {.layout = GetParam(), .group = 32});
  for (const auto& [rows, columns] :
       {std::pair<int64_t, int64_t>{17, 45}, {8, 45}, {13, 49}, {13, 40}, {13, 65}, {21, 45}}) {
    Written written = whole;
    written.matrix.rows = rows;
    written.matrix.columns = columns;
    const absl::Status status = Make(written).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << rows << " " << columns;
    EXPECT_THAT(std::string(status.message()), HasSubstr(", wanted "));
  }
}

}  // namespace
}  // namespace conclave::weights

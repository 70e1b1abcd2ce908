// The same bits, whoever shares the batch and however the prompt is cut: every family and class, on
// every level and number of threads, over real layouts (tests/golden) and over dimensions that real
// models avoid.

#include <gtest/gtest.h>

#include <memory>
#include <string>
#include <tuple>
#include <vector>

#include "tests/support/invariance.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_checkpoint.h"

namespace conclave::testing {
namespace {

using kernels::CpuLevel;
using kernels::NumericsClass;

std::vector<CpuLevel> SupportedLevels() {
  std::vector<CpuLevel> levels;
  for (const CpuLevel level : kernels::kCpuLevels) {
    if (kernels::CpuSupports(level)) levels.push_back(level);
  }
  return levels;
}

std::string ClassName(NumericsClass numerics) {
  return std::string(kernels::NumericsClassName(numerics));
}

class ForwardInvarianceTest
    : public ::testing::TestWithParam<std::tuple<const char*, NumericsClass>> {};

TEST_P(ForwardInvarianceTest, EveryWayGivesTheSameBits) {
  const auto& [folder, numerics] = GetParam();
  auto model = LoadModel(std::string(CONCLAVE_SOURCE_DIR "/tests/golden/") + folder, numerics);
  ASSERT_TRUE(model.ok()) << model.status();
  // Around the borders of blocks (32) and segments (256), and a crowd of short ones: 32 in all.
  std::vector<int64_t> lengths = {300, 1, 31, 32, 33, 64, 65, 7};
  for (int64_t i = 0; i < 24; ++i) lengths.push_back(2 + i);
  const InvarianceCase expected = MakeInvarianceCase(*std::move(model), lengths, 20);

  for (const CpuLevel level : SupportedLevels()) {
    SCOPED_TRACE(std::string(kernels::CpuLevelName(level)));
    const auto with_threads = [&](int threads) {
      return RigOptions{.level = level, .num_threads = threads, .num_blocks = 80};
    };
    if (level == CpuLevel::kReference) {  // slow, and the expected bits are its own
      ExpectSameInBatch(expected, with_threads(2), {64, 1, 7, 13, 1});
      continue;
    }
    for (const int64_t chunk : {0, 64, 7, 1}) ExpectSameAlone(expected, {.level = level}, chunk);
    for (const int threads : {1, 2, 3}) {
      SCOPED_TRACE(threads);
      ExpectSameInBatch(expected, with_threads(threads), {512});
      ExpectSameInBatch(expected, with_threads(threads), {64, 1, 7, 13, 1});
    }
  }
}

INSTANTIATE_TEST_SUITE_P(
    Families, ForwardInvarianceTest,
    ::testing::Combine(::testing::Values("deepseek_v2_lite", "deepseek_v2_full", "deepseek_v3",
                                         "mixtral", "qwen2_moe", "qwen3_moe", "olmoe"),
                       ::testing::ValuesIn(kernels::kNumericsClasses)),
    [](const auto& info) {
      return std::string(std::get<0>(info.param)) + "_" + ClassName(std::get<1>(info.param));
    });

// Other dimensions than the models above: each seed is another model.
class OddDimensionsTest : public ::testing::TestWithParam<std::tuple<std::string_view, uint64_t>> {
};

TEST_P(OddDimensionsTest, EveryWayGivesTheSameBits) {
  const auto& [family, seed] = GetParam();
  const TempDir dir;
  WriteTinyCheckpoint(family, seed, dir.path());
  for (const NumericsClass numerics : kernels::kNumericsClasses) {
    SCOPED_TRACE(ClassName(numerics));
    auto model = LoadModel(dir.path(), numerics);
    ASSERT_TRUE(model.ok()) << model.status();
    const InvarianceCase expected = MakeInvarianceCase(*std::move(model), {70, 33, 1, 12}, seed);
    for (const CpuLevel level : SupportedLevels()) {
      SCOPED_TRACE(std::string(kernels::CpuLevelName(level)));
      ExpectSameAlone(expected, {.level = level}, 0);
      ExpectSameAlone(expected, {.level = level, .num_threads = 2}, 1);
      ExpectSameInBatch(expected, {.level = level, .num_threads = 3}, {7, 1, 64});
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Tiny, OddDimensionsTest,
                         ::testing::Combine(::testing::ValuesIn(kFamilies),
                                            ::testing::Range<uint64_t>(1, 9)),
                         [](const auto& info) {
                           return std::string(std::get<0>(info.param)) + "_" +
                                  std::to_string(std::get<1>(info.param));
                         });

}  // namespace
}  // namespace conclave::testing

#include "kernels/context.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <optional>
#include <sstream>
#include <string>

#include "tests/kernels/random_rows.h"

namespace conclave::kernels {
namespace {

TEST(CpuLevelTest, NamesParseBack) {
  for (CpuLevel level : kCpuLevels) {
    EXPECT_EQ(ParseCpuLevel(CpuLevelName(level)), level);
  }
  EXPECT_EQ(ParseCpuLevel("sse9"), std::nullopt);
  EXPECT_EQ(ParseCpuLevel(""), std::nullopt);
}

// Says which levels the tests ran at. Where CONCLAVE_EXPECT_CPU_LEVELS lists some, such as
// "avx2,avx512_bf16", one that this processor lacks is a failure: else its tests would pass unrun.
TEST(CpuLevelTest, ExpectedLevelsRun) {
  std::string ran;
  for (const CpuLevel level : SupportedLevels()) {
    ran += (ran.empty() ? "" : ",") + std::string(CpuLevelName(level));
  }
  std::printf("levels that run: %s\n", ran.c_str());
  RecordProperty("cpu_levels", ran);
  const char* expected = std::getenv("CONCLAVE_EXPECT_CPU_LEVELS");
  std::istringstream names(expected == nullptr ? "" : expected);
  for (std::string name; std::getline(names, name, ',');) {
    const std::optional<CpuLevel> level = ParseCpuLevel(name);
    ASSERT_TRUE(level.has_value())
        << "CONCLAVE_EXPECT_CPU_LEVELS names \"" << name << "\", which is no level";
    EXPECT_TRUE(CpuSupports(*level)) << name << " is expected and did not run; these did: " << ran;
  }
}

TEST(CpuLevelTest, AFamilyHasWhatIsBelow) {
  // Of AVX-512 and AVX-VNNI a processor may have either without the other.
  EXPECT_GE(CpuSupports(CpuLevel::kAvx2), CpuSupports(CpuLevel::kAvx2Vnni));
  EXPECT_GE(CpuSupports(CpuLevel::kAvx2), CpuSupports(CpuLevel::kAvx512));
  EXPECT_GE(CpuSupports(CpuLevel::kAvx512), CpuSupports(CpuLevel::kAvx512Vnni));
  EXPECT_GE(CpuSupports(CpuLevel::kAvx512Vnni), CpuSupports(CpuLevel::kAvx512Bf16));
}

TEST(CpuLevelTest, TheBestLevelIsSupported) {
  EXPECT_TRUE(CpuSupports(BestCpuLevel()));
  EXPECT_TRUE(CpuSupports(CpuLevel::kReference));
}

TEST(ContextTest, ScratchIsAlignedAndKeptUntilItMustGrow) {
  Context context(CpuLevel::kReference, 1);
  std::byte* first = context.Scratch(ScratchSlot::kInput, 100);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0u);
  std::memset(first, 1, 100);
  EXPECT_EQ(context.Scratch(ScratchSlot::kInput, 50), first);
  EXPECT_EQ(context.Scratch(ScratchSlot::kInput, 100), first);
  EXPECT_NE(context.Scratch(ScratchSlot::kHidden, 100), first);
  std::byte* larger = context.Scratch(ScratchSlot::kInput, 100000);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(larger) % 64, 0u);
  std::memset(larger, 1, 100000);
}

}  // namespace
}  // namespace conclave::kernels

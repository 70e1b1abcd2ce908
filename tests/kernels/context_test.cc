#include "kernels/context.h"

#include <gtest/gtest.h>

#include <cstdint>
#include <cstring>

namespace conclave::kernels {
namespace {

TEST(CpuLevelTest, NamesParseBack) {
  for (CpuLevel level : kCpuLevels) {
    EXPECT_EQ(ParseCpuLevel(CpuLevelName(level)), level);
  }
  EXPECT_EQ(ParseCpuLevel("sse9"), std::nullopt);
  EXPECT_EQ(ParseCpuLevel(""), std::nullopt);
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

#include "services/cli/model_bench/model_run.h"

#include <gtest/gtest.h>

namespace conclave::cli {
namespace {

// A token each `step` seconds from `begin` on, delivered `late` after it.
Generation Steady(double begin, double step, int count, double late = 0) {
  Generation generation;
  for (int i = 0; i < count; ++i) generation.push_back({begin + i * step + late, 1});
  return generation;
}

TEST(CommonRateTest, OfOneIsItsOwn) {
  EXPECT_DOUBLE_EQ(*CommonRate({Steady(1, 0.5, 9)}), 2);
  EXPECT_DOUBLE_EQ(*CommonRate({{{1, 1}, {2, 4}, {3, 4}}}), 4);
}

TEST(CommonRateTest, EventsOfAStepOneAfterTheOtherChangeNothing) {
  std::vector<Generation> all;
  for (int i = 0; i < 32; ++i) all.push_back(Steady(0, 1, 12, 0.01 * i));
  EXPECT_NEAR(*CommonRate(all), 32, 1e-9);
}

TEST(CommonRateTest, CountsOnlyWhileAllGenerate) {
  // Alone the first is twice as fast.
  Generation first = Steady(0, 0.5, 10);
  for (const Arrived& later : Steady(5, 1, 10)) first.push_back(later);
  EXPECT_NEAR(*CommonRate({first, Steady(5, 1, 20)}), 2, 1e-9);
}

TEST(CommonRateTest, IsUnknownForSequencesOneAfterTheOther) {
  EXPECT_EQ(CommonRate({Steady(0, 1, 5), Steady(10, 1, 5)}), std::nullopt);
  EXPECT_EQ(CommonRate({Steady(0, 1, 5), {}}), std::nullopt);
}

}  // namespace
}  // namespace conclave::cli

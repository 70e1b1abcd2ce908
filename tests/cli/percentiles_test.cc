#include "services/cli/percentiles.h"

#include <gtest/gtest.h>

namespace conclave::cli {
namespace {

TEST(PercentileTest, TakesTheNearestRank) {
  const std::vector<double> values = {5, 1, 3, 2, 4, 6, 7, 8, 9, 10};
  EXPECT_EQ(Percentile(values, 50), 5);
  EXPECT_EQ(Percentile(values, 90), 9);
  EXPECT_EQ(Percentile(values, 99), 10);
  EXPECT_EQ(Percentile(values, 100), 10);
  EXPECT_EQ(Percentile(values, 0), 1);
}

TEST(PercentileTest, OfOneAndOfNone) {
  EXPECT_EQ(Percentile({3}, 99), 3);
  EXPECT_EQ(Percentile({}, 50), 0);
}

TEST(AreaUnderCurveTest, SaysHowOftenOneIsAboveTheOther) {
  EXPECT_EQ(AreaUnderCurve({1, 2, 3}, {1, 2, 3}), 0.5);
  EXPECT_EQ(AreaUnderCurve({4, 5}, {1, 2, 3}), 1);
  EXPECT_EQ(AreaUnderCurve({1}, {2}), 0);
  EXPECT_EQ(AreaUnderCurve({2}, {1, 2, 3, 4}), 0.375);
}

}  // namespace
}  // namespace conclave::cli

#include "services/expert/unit_rate.h"

#include <random>

#include "gtest/gtest.h"

namespace conclave::expert {
namespace {

TEST(UnitRateTest, LearnsTheTimeOfWeightsAndOfRows) {
  UnitRate rate;
  std::mt19937 random(1);
  for (int i = 0; i < 200; ++i) {
    const int64_t experts = 1 + random() % 4, rows = experts + random() % 60;
    const double noise = 0.9 + 0.2 * (random() % 1000) / 1000.0;
    rate.Observe(experts, rows, (300'000.0 * experts + 5'000.0 * rows) * noise);
  }
  EXPECT_NEAR(rate.PredictNs(1, 0), 300'000, 60'000);
  EXPECT_NEAR(rate.PredictNs(0, 1), 5'000, 2'000);
  EXPECT_NEAR(static_cast<double>(rate.RowsWithin(1e6)), 140, 40);
}

TEST(UnitRateTest, PredictsUnitsOfOneShapeExactly) {
  UnitRate rate;
  for (int i = 0; i < 10; ++i) rate.Observe(4, 4, 80'000);
  EXPECT_NEAR(rate.PredictNs(4, 4), 80'000, 1);
  EXPECT_NEAR(rate.PredictNs(8, 8), 160'000, 1);
}

TEST(UnitRateTest, FollowsAMachineThatBecomesSlower) {
  UnitRate rate;
  for (int i = 0; i < 100; ++i) rate.Observe(1, 1 + i % 20, 100'000 + 1'000 * (1 + i % 20));
  for (int i = 0; i < 1000; ++i) rate.Observe(1, 1 + i % 20, 200'000 + 2'000 * (1 + i % 20));
  EXPECT_NEAR(rate.PredictNs(1, 10), 220'000, 5'000);
}

TEST(UnitRateTest, TimesAreNeverNegative) {
  UnitRate rate;
  rate.Observe(1, 100, 1'000);
  rate.Observe(1, 1, 100'000);
  EXPECT_GT(rate.PredictNs(1, 0), 0);
  EXPECT_GT(rate.PredictNs(0, 1), 0);
  EXPECT_EQ(rate.RowsWithin(0), 0);
}

}  // namespace
}  // namespace conclave::expert

#include "services/gateway/qos/wait_estimate.h"

#include <gtest/gtest.h>

namespace conclave::gateway {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

TEST(WaitEstimateTest, KnowsNothingAtFirst) {
  WaitEstimate estimate;
  EXPECT_FALSE(estimate.UntilFirstToken(100));
  EXPECT_EQ(estimate.AfterFirstToken(100), Duration(0));
  EXPECT_EQ(estimate.ExpectedTokens(10), 10);
  EXPECT_EQ(estimate.ExpectedTokens(1e9), 128);
}

TEST(WaitEstimateTest, LearnsTheSpeedWhileRequestsWait) {
  WaitEstimate estimate;
  SimulatedClock clock;
  for (int i = 0; i < 300; ++i) {
    estimate.Computed(50);
    estimate.Tick(clock.Now(), true);
    clock.Advance(milliseconds(100));
  }
  EXPECT_NEAR(Seconds(*estimate.UntilFirstToken(1000)), 2, 0.02);
  estimate.FirstToken(milliseconds(300));
  EXPECT_NEAR(Seconds(*estimate.UntilFirstToken(1000)), 2.3, 0.02);
  // Idle engines are not slow ones, and soon nothing is known of them any more.
  for (int i = 0; i < 5; ++i) {
    estimate.Tick(clock.Now(), false);
    clock.Advance(milliseconds(100));
  }
  EXPECT_NEAR(Seconds(*estimate.UntilFirstToken(1000)), 2.3, 0.02);
  for (int i = 0; i < 10; ++i) {
    estimate.Tick(clock.Now(), false);
    clock.Advance(milliseconds(100));
  }
  EXPECT_FALSE(estimate.UntilFirstToken(1000));
  // Slower engines are noticed in seconds.
  for (int i = 0; i < 200; ++i) {
    estimate.Computed(5);
    estimate.Tick(clock.Now(), true);
    clock.Advance(milliseconds(100));
  }
  EXPECT_GT(Seconds(*estimate.UntilFirstToken(1000)), 10);
}

TEST(WaitEstimateTest, LearnsHowLongAnswersAre) {
  WaitEstimate estimate;
  for (int i = 0; i < 200; ++i) estimate.Answered(20, milliseconds(190));
  EXPECT_NEAR(estimate.ExpectedTokens(1000), 20, 0.1);
  EXPECT_EQ(estimate.ExpectedTokens(3), 3);
  EXPECT_NEAR(Seconds(estimate.AfterFirstToken(1000)), 0.19, 0.001);
  EXPECT_NEAR(Seconds(estimate.AfterFirstToken(3)), 0.02, 0.001);
  EXPECT_EQ(estimate.AfterFirstToken(1), Duration(0));
  estimate.FirstToken(milliseconds(50));
  EXPECT_NEAR(Seconds(estimate.ToAnswer(1000)), 0.24, 0.001);
  for (int i = 0; i < 200; ++i) estimate.Answered(20, std::nullopt);  // not the engine's speed
  EXPECT_NEAR(Seconds(estimate.AfterFirstToken(1000)), 0.19, 0.001);
}

TEST(WaitEstimateTest, ForgetsHowLongAnswersTookWhenNoneComes) {
  WaitEstimate estimate;
  SimulatedClock clock;
  estimate.Tick(clock.Now(), false);
  estimate.FirstToken(milliseconds(50));
  estimate.Answered(11, milliseconds(100));
  estimate.Tick(clock.Now(), false);
  EXPECT_NEAR(Seconds(estimate.UsualAnswer(11).until_first), 0.05, 1e-6);
  EXPECT_NEAR(Seconds(estimate.UsualAnswer(11).after_first), 0.1, 1e-6);
  clock.Advance(seconds(4));
  estimate.Tick(clock.Now(), false);
  EXPECT_NEAR(Seconds(estimate.UsualAnswer(6).after_first), 0.05, 1e-6);
  clock.Advance(seconds(1));
  estimate.Tick(clock.Now(), false);
  EXPECT_EQ(estimate.UsualAnswer(11).until_first, Duration(0));
  EXPECT_EQ(estimate.UsualAnswer(11).after_first, Duration(0));
}

TEST(WaitEstimateTest, AllowsForAnswersThatTakeLonger) {
  WaitEstimate estimate;
  for (int i = 0; i < 400; ++i) {
    estimate.Answered(11, i % 2 == 0 ? milliseconds(100) : milliseconds(300));
  }
  // 200 ms and twice 100.
  EXPECT_NEAR(Seconds(estimate.AfterFirstToken(11)), 0.4, 0.02);
}

TEST(WaitEstimateTest, AStandstillPredictsTheLongestWait) {
  WaitEstimate estimate;
  SimulatedClock clock;
  estimate.Tick(clock.Now(), true);
  clock.Advance(seconds(1));
  estimate.Tick(clock.Now(), true);
  EXPECT_FALSE(estimate.UntilFirstToken(1));  // no speed: nothing to go by
  clock.Advance(seconds(1));
  estimate.Computed(1e-9);
  estimate.Tick(clock.Now(), true);
  EXPECT_EQ(*estimate.UntilFirstToken(1e6), std::chrono::hours(24));
}

}  // namespace
}  // namespace conclave::gateway

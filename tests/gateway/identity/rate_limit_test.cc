#include "services/gateway/identity/rate_limit.h"

#include <gtest/gtest.h>

#include "shared/rpc/status.h"

namespace conclave::gateway {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(RateLimitTest, WithoutLimitsTakesEverything) {
  SimulatedClock clock;
  RateLimit limit(0, 0, clock.Now());
  for (int i = 0; i < 1000; ++i) EXPECT_TRUE(limit.TakeRequest(clock.Now()).ok());
  EXPECT_EQ(limit.ReserveTokens(1 << 30, clock.Now()).value(), 0);
  limit.SettleTokens(0, 1 << 30, clock.Now());
  EXPECT_TRUE(limit.TakeRequest(clock.Now()).ok());
  EXPECT_EQ(limit.requests(clock.Now()).limit, 0);
}

TEST(RateLimitTest, RefusesRequestsBeyondAMinutesWorth) {
  SimulatedClock clock;
  RateLimit limit(60, 0, clock.Now());
  for (int i = 0; i < 60; ++i) EXPECT_TRUE(limit.TakeRequest(clock.Now()).ok());
  const absl::Status refused = limit.TakeRequest(clock.Now());
  EXPECT_TRUE(absl::IsResourceExhausted(refused));
  EXPECT_EQ(rpc::DetailsOf(refused).reason, "RATE_LIMITED");
  EXPECT_NEAR(static_cast<double>(rpc::DetailsOf(refused).retry_after_ms), 1000, 2);
  EXPECT_EQ(limit.requests(clock.Now()).remaining, 0);
  EXPECT_NEAR(std::chrono::duration<double>(limit.requests(clock.Now()).until_full).count(), 60,
              0.01);
  clock.Advance(milliseconds(1001));
  EXPECT_TRUE(limit.TakeRequest(clock.Now()).ok());
  EXPECT_FALSE(limit.TakeRequest(clock.Now()).ok());
  clock.Advance(seconds(3600));
  EXPECT_EQ(limit.requests(clock.Now()).remaining, 60) << "no more than a minute's worth";
}

TEST(RateLimitTest, TakesWhatARequestMayCostWhenItComes) {
  SimulatedClock clock;
  RateLimit limit(0, 600, clock.Now());
  int admitted = 0;
  while (limit.ReserveTokens(100, clock.Now()).ok()) ++admitted;
  EXPECT_EQ(admitted, 6) << "none has ended, and no more may run";
  const absl::Status refused = limit.ReserveTokens(100, clock.Now()).status();
  EXPECT_TRUE(absl::IsResourceExhausted(refused));
  EXPECT_EQ(rpc::DetailsOf(refused).reason, "RATE_LIMITED");
  EXPECT_NEAR(static_cast<double>(rpc::DetailsOf(refused).retry_after_ms), 10000, 2);
  EXPECT_NE(refused.message().find("may cost 100 tokens"), absl::string_view::npos) << refused;
  limit.SettleTokens(100, 20, clock.Now());
  EXPECT_EQ(limit.tokens(clock.Now()).remaining, 80) << "what was not used comes back";
  limit.GiveBackTokens(100);
  EXPECT_EQ(limit.tokens(clock.Now()).remaining, 180);
}

TEST(RateLimitTest, ARequestBeyondTheLimitWaitsForAFullBucket) {
  SimulatedClock clock;
  RateLimit limit(0, 600, clock.Now());
  EXPECT_TRUE(limit.ReserveTokens(1, clock.Now()).ok());
  EXPECT_FALSE(limit.ReserveTokens(5000, clock.Now()).ok());
  clock.Advance(milliseconds(101));
  EXPECT_EQ(limit.ReserveTokens(5000, clock.Now()).value(), 600);
}

TEST(RateLimitTest, LongerAnswersArePaidOff) {
  SimulatedClock clock;
  RateLimit limit(0, 600, clock.Now());
  const int64_t reserved = limit.ReserveTokens(600, clock.Now()).value();
  limit.SettleTokens(reserved, 700, clock.Now());  // an answer is not cut off half way
  const absl::Status refused = limit.TakeRequest(clock.Now());
  EXPECT_NE(refused.message().find("600 tokens a minute"), absl::string_view::npos) << refused;
  EXPECT_NEAR(static_cast<double>(rpc::DetailsOf(refused).retry_after_ms), 10100, 5);
  EXPECT_EQ(limit.tokens(clock.Now()).remaining, 0);
  clock.Advance(milliseconds(10200));
  EXPECT_TRUE(limit.TakeRequest(clock.Now()).ok());
}

TEST(RateLimitTest, NoDebtLastsLongerThanItsBound) {
  SimulatedClock clock;
  RateLimit limit(0, 600, clock.Now());
  for (int i = 0; i < 100; ++i) limit.SettleTokens(0, 1'000'000, clock.Now());
  EXPECT_FALSE(limit.TakeRequest(clock.Now()).ok());
  clock.Advance(std::chrono::minutes(kMostDebtMinutes));
  EXPECT_EQ(limit.tokens(clock.Now()).remaining, 600);
}

TEST(RateLimitTest, AMinuteWithoutRequestsDoesNotPayForALaterDebt) {
  SimulatedClock clock;
  RateLimit limit(0, 600, clock.Now());
  clock.Advance(std::chrono::minutes(5));
  limit.SettleTokens(0, 700, clock.Now());
  EXPECT_EQ(limit.tokens(clock.Now()).remaining, 0);
}

TEST(TokenReservationTest, IsGivenBackUnlessItIsSettled) {
  SimulatedClock clock;
  const auto limit = std::make_shared<RateLimit>(0, 600, clock.Now());
  {
    const auto never_ran = TokenReservation::Make(limit, 100, clock.Now());
    EXPECT_EQ(limit->tokens(clock.Now()).remaining, 500);
  }
  EXPECT_EQ(limit->tokens(clock.Now()).remaining, 600);
  {
    const auto ran = TokenReservation::Make(limit, 100, clock.Now());
    (*ran)->Settle(10, clock.Now());
    (*ran)->Settle(50, clock.Now());
  }
  EXPECT_EQ(limit->tokens(clock.Now()).remaining, 590);
}

TEST(RateLimitTest, NewLimitsKeepTheShareThatIsLeft) {
  SimulatedClock clock;
  RateLimit limit(100, 0, clock.Now());
  for (int i = 0; i < 50; ++i) EXPECT_TRUE(limit.TakeRequest(clock.Now()).ok());
  limit.SetLimits(10, 1000, clock.Now());
  EXPECT_EQ(limit.requests(clock.Now()).remaining, 5);
  EXPECT_EQ(limit.tokens(clock.Now()).remaining, 1000);
}

}  // namespace
}  // namespace conclave::gateway

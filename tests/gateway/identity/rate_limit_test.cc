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
  limit.UseTokens(1 << 30, clock.Now());
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

TEST(RateLimitTest, TokensAreTakenAsTheyAreUsed) {
  SimulatedClock clock;
  RateLimit limit(0, 600, clock.Now());
  EXPECT_TRUE(limit.TakeRequest(clock.Now()).ok());
  limit.UseTokens(700, clock.Now());  // an answer is not cut off half way
  const absl::Status refused = limit.TakeRequest(clock.Now());
  EXPECT_NE(refused.message().find("600 tokens a minute"), absl::string_view::npos) << refused;
  EXPECT_NEAR(static_cast<double>(rpc::DetailsOf(refused).retry_after_ms), 10100, 5);
  EXPECT_EQ(limit.tokens(clock.Now()).remaining, 0);
  clock.Advance(milliseconds(10200));
  EXPECT_TRUE(limit.TakeRequest(clock.Now()).ok());
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

#include "services/cli/restart_policy.h"

#include <gtest/gtest.h>

namespace conclave::cli {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(RestartPolicyTest, WaitsLongerAfterEachDeath) {
  SimulatedClock clock;
  RestartPolicy policy;
  for (const int expected_ms : {250, 500, 1000, 2000, 4000}) {
    EXPECT_EQ(policy.DelayAfterDeath(clock.Now()), milliseconds(expected_ms));
    clock.Advance(milliseconds(expected_ms));
    policy.Restarted(clock.Now());
  }
}

TEST(RestartPolicyTest, RestartsAtMostFiveTimesAMinute) {
  SimulatedClock clock;
  RestartPolicy policy;
  std::vector<TimePoint> restarts;
  for (int i = 0; i < 50; ++i) {
    clock.Advance(policy.DelayAfterDeath(clock.Now()));
    EXPECT_LE(policy.Restarted(clock.Now()), RestartPolicy::kMostPerMinute);
    restarts.push_back(clock.Now());
  }
  for (size_t i = RestartPolicy::kMostPerMinute; i < restarts.size(); ++i) {
    EXPECT_GE(restarts[i] - restarts[i - RestartPolicy::kMostPerMinute], seconds(60));
  }
}

TEST(RestartPolicyTest, IsExhaustedByFiveRestartsInAMinute) {
  SimulatedClock clock;
  RestartPolicy policy;
  for (int i = 0; i < RestartPolicy::kMostPerMinute; ++i) {
    EXPECT_FALSE(policy.Exhausted(clock.Now()));
    policy.Restarted(clock.Now());
    clock.Advance(seconds(1));
  }
  EXPECT_TRUE(policy.Exhausted(clock.Now()));
  clock.Advance(seconds(60));
  EXPECT_FALSE(policy.Exhausted(clock.Now()));
}

TEST(RestartPolicyTest, ForgetsAfterAGoodMinute) {
  SimulatedClock clock;
  RestartPolicy policy;
  policy.Restarted(clock.Now());
  policy.Restarted(clock.Now());
  EXPECT_EQ(policy.DelayAfterDeath(clock.Now()), milliseconds(1000));
  clock.Advance(seconds(60));
  EXPECT_EQ(policy.DelayAfterDeath(clock.Now()), milliseconds(250));
  EXPECT_EQ(policy.Restarted(clock.Now()), 1);
}

}  // namespace
}  // namespace conclave::cli

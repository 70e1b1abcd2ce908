#include "services/gateway/prompt_lanes.h"

#include <gtest/gtest.h>

#include <thread>

#include "tests/gateway/prompt_work.h"

namespace conclave::gateway {
namespace {

constexpr size_t kLong = kShortPromptBytes + 1;

TEST(PromptLanesTest, RunsTheLeastHere) {
  PromptLanes lanes;
  Waiting quick(kQuickPromptBytes), more(kQuickPromptBytes + 1), part(1);
  lanes.Run(quick.work);
  EXPECT_EQ(quick.thread, std::this_thread::get_id());
  EXPECT_TRUE(quick.Outcome().ok());
  lanes.Run(more.work);
  EXPECT_TRUE(more.Outcome().ok());
  EXPECT_NE(more.thread, std::this_thread::get_id());
  lanes.Queue(part.work);
  EXPECT_TRUE(part.Outcome().ok());
  EXPECT_NE(part.thread, std::this_thread::get_id());
}

TEST(PromptLanesTest, ShortWorkDoesNotWaitForLongWork) {
  PromptLanes lanes;
  Blocker blocker(&lanes, kLong);
  Waiting waiting(kLong), brief(kShortPromptBytes);
  lanes.Run(waiting.work);
  lanes.Run(brief.work);
  EXPECT_TRUE(brief.Outcome().ok());
  blocker.Release();
  EXPECT_TRUE(waiting.Outcome().ok());
}

TEST(PromptLanesTest, LongWorkDoesNotWaitForShortWork) {
  PromptLanes lanes;
  Blocker first(&lanes, kShortPromptBytes), second(&lanes, kShortPromptBytes);
  Waiting long_one(kLong);
  lanes.Run(long_one.work);
  EXPECT_TRUE(long_one.Outcome().ok());
  first.Release();
  second.Release();
}

TEST(PromptLanesTest, SweepAndStopReachBothLanes) {
  PromptLanes lanes;
  Blocker long_one(&lanes, kLong), first(&lanes, kShortPromptBytes),
      second(&lanes, kShortPromptBytes);
  Waiting cancelled_long(kLong), cancelled_short(kShortPromptBytes);
  Waiting left_long(kLong), left_short(kShortPromptBytes);
  for (Waiting* const waiting : {&cancelled_long, &cancelled_short, &left_long, &left_short}) {
    lanes.Run(waiting->work);
  }
  cancelled_long.interrupt->Cancel();
  cancelled_short.interrupt->Cancel();
  lanes.Sweep();
  EXPECT_TRUE(absl::IsCancelled(cancelled_long.Outcome()));
  EXPECT_TRUE(absl::IsCancelled(cancelled_short.Outcome()));
  lanes.Stop();
  EXPECT_TRUE(absl::IsUnavailable(left_long.Outcome()));
  EXPECT_TRUE(absl::IsUnavailable(left_short.Outcome()));
}

}  // namespace
}  // namespace conclave::gateway

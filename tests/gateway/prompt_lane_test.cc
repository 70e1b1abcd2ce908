#include "services/gateway/prompt_lane.h"

#include <gtest/gtest.h>

#include <string>
#include <thread>
#include <vector>

#include "tests/gateway/prompt_work.h"

namespace conclave::gateway {
namespace {

constexpr size_t kLong = 100 << 10;

PromptLane::Options OneThread() { return {.thread_name = "prompt-test"}; }

TEST(PromptLaneTest, RunsWorkThereInOrder) {
  PromptLane lane(OneThread());
  Blocker blocker(&lane, kLong);
  std::vector<int> order;
  Waiting last(kLong);
  for (int i = 0; i < 3; ++i) {
    lane.Run({.bytes = kLong,
              .interrupt = std::make_shared<text::Interrupt>(),
              .run = [&order, i](const absl::Status&) { order.push_back(i); }});
  }
  lane.Run(last.work);
  blocker.Release();
  EXPECT_TRUE(last.Outcome().ok());
  EXPECT_EQ(order, (std::vector<int>{0, 1, 2}));
  EXPECT_NE(last.thread, std::this_thread::get_id());
}

TEST(PromptLaneTest, TenantsTakeTurns) {
  PromptLane lane(OneThread());
  Blocker blocker(&lane, kLong);
  std::string order;
  Waiting last(kLong);
  last.work.tenant = "c";
  for (const char* const name : {"a", "a", "a", "b", "c", "b"}) {
    lane.Run({.bytes = kLong,
              .tenant = name,
              .interrupt = std::make_shared<text::Interrupt>(),
              .run = [&order, name](const absl::Status&) { order += name; }});
  }
  lane.Run(last.work);
  blocker.Release();
  EXPECT_TRUE(last.Outcome().ok());
  EXPECT_EQ(order.substr(0, 5), "abcab");
}

TEST(PromptLaneTest, EndsWhatWaitsInVainWhileALongTextRuns) {
  PromptLane lane(OneThread());
  Blocker blocker(&lane, kLong);
  Waiting cancelled(kLong), late(kLong, std::chrono::steady_clock::now()), patient(kLong);
  lane.Run(cancelled.work);
  lane.Run(late.work);
  lane.Run(patient.work);
  cancelled.interrupt->Cancel();
  lane.Sweep();
  EXPECT_TRUE(absl::IsCancelled(cancelled.Outcome()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(late.Outcome()));
  blocker.Release();
  EXPECT_TRUE(patient.Outcome().ok());
}

TEST(PromptLaneTest, TellsWorkWhoseTurnComesTooLate) {
  PromptLane lane(OneThread());
  Blocker blocker(&lane, kLong);
  Waiting cancelled(kLong);
  lane.Run(cancelled.work);
  cancelled.interrupt->Cancel();
  blocker.Release();
  EXPECT_TRUE(absl::IsCancelled(cancelled.Outcome()));
}

TEST(PromptLaneTest, RefusesWhenTooMuchWaits) {
  PromptLane lane(OneThread());
  Blocker blocker(&lane, kLong);
  Waiting first(kMaxWaitingPromptBytes - kLong), fits(kLong), refused(kLong);
  first.work.tenant = "loud";
  lane.Run(first.work);
  Waiting more(kLong);
  more.work.tenant = "loud";
  lane.Run(more.work);
  EXPECT_TRUE(absl::IsResourceExhausted(more.Outcome())) << "what is free is for others";
  lane.Run(fits.work);
  lane.Run(refused.work);
  EXPECT_TRUE(absl::IsResourceExhausted(refused.Outcome()));
  EXPECT_EQ(refused.thread, std::this_thread::get_id());
  blocker.Release();
  EXPECT_TRUE(fits.Outcome().ok());
  Waiting again(kLong);
  lane.Run(again.work);
  EXPECT_TRUE(again.Outcome().ok());
}

TEST(PromptLaneTest, StopInterruptsWhatRunsAndEndsWhatWaits) {
  PromptLane lane(OneThread());
  Blocker blocker(&lane, kLong);
  Waiting waiting(kLong), after(kLong);
  lane.Run(waiting.work);
  lane.Stop();
  EXPECT_TRUE(absl::IsUnavailable(waiting.Outcome()));
  lane.Run(after.work);
  EXPECT_TRUE(absl::IsUnavailable(after.Outcome()));
}

TEST(PromptLaneTest, RunsAsMuchAtOnceAsItHasThreads) {
  PromptLane lane({.thread_name = "prompt-test", .num_threads = 2});
  Blocker first(&lane, kLong), second(&lane, kLong);  // each waits until it runs
  Waiting third(kLong);
  lane.Run(third.work);
  second.Release();
  EXPECT_TRUE(third.Outcome().ok());
  EXPECT_FALSE(first.interrupt->interrupted());
  first.Release();
}

TEST(PromptLaneTest, StopInterruptsWhatRunsOnEveryThread) {
  PromptLane lane({.thread_name = "prompt-test", .num_threads = 2});
  Blocker first(&lane, kLong), second(&lane, kLong);
  lane.Stop();
  EXPECT_TRUE(first.interrupt->interrupted());
  EXPECT_TRUE(second.interrupt->interrupted());
}

}  // namespace
}  // namespace conclave::gateway

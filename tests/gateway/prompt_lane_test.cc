#include "services/gateway/prompt_lane.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <future>
#include <optional>
#include <thread>
#include <vector>

#include "shared/base/clock.h"

namespace conclave::gateway {
namespace {

constexpr size_t kLong = kShortPromptBytes + 1;

// Holds the lane's thread until told to let go.
class Blocker {
 public:
  explicit Blocker(PromptLane* lane) {
    lane->Run({.bytes = kLong, .interrupt = interrupt, .run = [this](const absl::Status&) {
                 begun_.set_value();
                 while (!released_ && !interrupt->interrupted()) std::this_thread::yield();
               }});
    begun_.get_future().wait();
  }
  void Release() { released_ = true; }

  const std::shared_ptr<text::Interrupt> interrupt = std::make_shared<text::Interrupt>();

 private:
  std::promise<void> begun_;
  std::atomic<bool> released_{false};
};

// A piece of work whose outcome can be waited for.
struct Waiting {
  explicit Waiting(size_t bytes, std::optional<TimePoint> deadline = std::nullopt)
      : interrupt(std::make_shared<text::Interrupt>(deadline)) {
    work = {.bytes = bytes, .interrupt = interrupt, .run = [this](const absl::Status& status) {
              thread = std::this_thread::get_id();
              outcome.set_value(status);
            }};
  }
  absl::Status Outcome() {
    std::future<absl::Status> future = outcome.get_future();
    if (future.wait_for(std::chrono::seconds(10)) != std::future_status::ready) {
      return absl::UnknownError("nothing came");
    }
    return future.get();
  }

  const std::shared_ptr<text::Interrupt> interrupt;
  std::promise<absl::Status> outcome;
  std::thread::id thread;
  PromptLane::Work work;
};

TEST(PromptLaneTest, RunsShortWorkHereAndLongWorkThereInOrder) {
  PromptLane lane;
  Blocker blocker(&lane);
  Waiting quick(kShortPromptBytes);
  lane.Run(quick.work);
  EXPECT_EQ(quick.thread, std::this_thread::get_id()) << "short work waited for a long one";
  EXPECT_TRUE(quick.Outcome().ok());
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
  PromptLane lane;
  Blocker blocker(&lane);
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
  PromptLane lane;
  Blocker blocker(&lane);
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
  PromptLane lane;
  Blocker blocker(&lane);
  Waiting cancelled(kLong);
  lane.Run(cancelled.work);
  cancelled.interrupt->Cancel();
  blocker.Release();
  EXPECT_TRUE(absl::IsCancelled(cancelled.Outcome()));
}

TEST(PromptLaneTest, RefusesWhenTooMuchWaits) {
  PromptLane lane;
  Blocker blocker(&lane);
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
  PromptLane lane;
  Blocker blocker(&lane);
  Waiting waiting(kLong), after(kLong);
  lane.Run(waiting.work);
  lane.Stop();
  EXPECT_TRUE(absl::IsUnavailable(waiting.Outcome()));
  lane.Run(after.work);
  EXPECT_TRUE(absl::IsUnavailable(after.Outcome()));
}

}  // namespace
}  // namespace conclave::gateway

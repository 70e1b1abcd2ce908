// Equal requests that share one run.
#include <gtest/gtest.h>

#include <vector>

#include "tests/gateway/request_scheduler_fixture.h"

namespace conclave::gateway {
namespace {

using std::chrono::seconds;

TEST_F(RequestSchedulerTest, AnAnswerThatGrowsTooLargeIsNotShared) {
  Start({});
  Submit({.prompt = 1, .answer = 4000, .choices = 32, .cache_key = 1});
  EXPECT_EQ(Submit({.cache_key = 1})->cache, CacheStatus::kJoined);
  for (int i = 0; i < 3000; ++i) Step();
  EXPECT_EQ(Submit({.cache_key = 1})->cache, CacheStatus::kMiss);
  Finish();
}

TEST_F(RequestSchedulerTest, EqualRequestsShareOneRun) {
  Start({});
  const auto first = Submit({.answer = 3, .cache_key = 1});
  Step();
  const auto second = Submit({.answer = 3, .cache_key = 1});
  const auto other = Submit({.answer = 3, .cache_key = 2});
  const auto apart = Submit({.answer = 3});
  EXPECT_EQ(engine_.started.size(), 3U);
  EXPECT_EQ(second->tokens, 1) << "what there was when it came";
  Finish();
  for (const auto& heard : {first, second, other, apart}) {
    EXPECT_EQ(heard->tokens, 3);
    EXPECT_TRUE(heard->done);
  }
  EXPECT_EQ(first->cache, CacheStatus::kMiss);
  EXPECT_EQ(second->cache, CacheStatus::kJoined);
  EXPECT_EQ(apart->cache, CacheStatus::kNone);
  EXPECT_GT(first->engine_us, 0);
  EXPECT_EQ(second->engine_us, 0) << "the work is charged once";
  CacheKey key;
  key.fill(1);
  const auto kept = cache_.Find(key);
  ASSERT_NE(kept, nullptr);
  EXPECT_EQ(kept->choices[0].ids, (std::vector<int32_t>{5, 5, 5}));
  EXPECT_EQ(kept->usage.completion_tokens, 3);
  // The next one starts anew: the cache is asked before the scheduler.
  EXPECT_EQ(Submit({.cache_key = 1})->cache, CacheStatus::kMiss);
}

TEST_F(RequestSchedulerTest, EachOfThoseWhoShareMayLeave) {
  Start({});
  const auto first = Submit({.answer = 3, .id = "first", .cache_key = 1});
  const uint64_t first_key = last_key_;
  const auto second = Submit({.answer = 3, .id = "second", .cache_key = 1});
  const auto third = Submit({.answer = 3, .timeout = seconds(1), .id = "third", .cache_key = 1});
  Step();
  scheduler_->Abandon(first_key);
  EXPECT_TRUE(scheduler_->Cancel("", "second").ok());
  EXPECT_EQ(second->finished, std::vector<FinishReason>{FinishReason::kCancelled});
  EXPECT_TRUE(second->done);
  EXPECT_TRUE(engine_.cancelled.empty());
  Step();
  EXPECT_EQ(first->tokens, 1);
  EXPECT_EQ(second->tokens, 1);
  EXPECT_EQ(third->tokens, 2);
  clock_.Advance(seconds(1));
  scheduler_->Tick();
  EXPECT_TRUE(absl::IsDeadlineExceeded(*third->failed));
  EXPECT_EQ(engine_.cancelled.size(), 1U) << "nobody listens any more";
  EXPECT_EQ(scheduler_->num_running(), 0);
  EXPECT_EQ(cache_.counts().entries, 0);
}

TEST_F(RequestSchedulerTest, WhoeverIsLeftIsChargedForTheWork) {
  Start({});
  Submit({.answer = 3, .cache_key = 1});
  const uint64_t first_key = last_key_;
  const auto second = Submit({.answer = 3, .cache_key = 1});
  const auto third = Submit({.answer = 3, .cache_key = 1});
  Step();
  scheduler_->Abandon(first_key);
  Finish();
  EXPECT_GT(second->engine_us, 0);
  EXPECT_EQ(third->engine_us, 0);
}

TEST_F(RequestSchedulerTest, SharesNoRunThatSuitsItLess) {
  Start({});
  Submit({.qos = QosClass::kBatch, .answer = 9, .cache_key = 1});
  EXPECT_EQ(Submit({.qos = QosClass::kRealtime, .cache_key = 1})->cache, CacheStatus::kMiss);
  Submit({.answer = 9, .cache_key = 2, .pace = 1});
  EXPECT_EQ(Submit({.cache_key = 2})->cache, CacheStatus::kMiss);
  Submit({.answer = 9, .timeout = seconds(5), .cache_key = 3});
  EXPECT_EQ(Submit({.cache_key = 3})->cache, CacheStatus::kMiss);
  Submit({.answer = 9, .timeout = seconds(5), .cache_key = 4});
  EXPECT_EQ(Submit({.timeout = seconds(4), .cache_key = 4})->cache, CacheStatus::kJoined);
}

TEST_F(RequestSchedulerTest, AFailedRunFailsAllWhoShareIt) {
  Start({});
  const auto first = Submit({.cache_key = 1});
  const auto second = Submit({.cache_key = 1});
  scheduler_->FailAllOn("engine-0", absl::UnavailableError("lost"));
  EXPECT_TRUE(first->failed && second->failed);
  EXPECT_EQ(cache_.counts().entries, 0);
  EXPECT_EQ(Submit({.cache_key = 1})->cache, CacheStatus::kMiss);
}

}  // namespace
}  // namespace conclave::gateway

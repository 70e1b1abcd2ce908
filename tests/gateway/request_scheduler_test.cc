#include "services/gateway/request_scheduler.h"

#include <gtest/gtest.h>

#include <vector>

#include "shared/rpc/status.h"
#include "tests/gateway/request_scheduler_fixture.h"

namespace conclave::gateway {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST_F(RequestSchedulerTest, RunsAtOnceWhereThereIsRoom) {
  Start({});
  const auto heard = Submit({.answer = 3, .choices = 2});
  EXPECT_TRUE(heard->started);
  EXPECT_EQ(engine_.started.size(), 2U);
  EXPECT_EQ(engine_.started[1].choice_index, 1);
  Finish();
  EXPECT_EQ(heard->tokens, 6);
  EXPECT_TRUE(heard->done);
  EXPECT_EQ(scheduler_->num_running(), 0);
}

TEST_F(RequestSchedulerTest, AsksAnotherEngineWhenOneThatLeavesRefuses) {
  Start({});
  const auto heard = Submit({.answer = 3, .choices = 2});
  SimulatedEngine other;
  other.Join(&engines_, "engine-1", 0, 0);
  const SequenceFailed refused{absl::UnavailableError("the engine is draining"), true};
  scheduler_->OnEvent({engine_.started[0].sequence_id, refused});
  scheduler_->OnEvent({engine_.started[1].sequence_id, refused});
  EXPECT_EQ(other.started.size(), 2U) << "the second refusal is of a sequence that is forgotten";
  Submit({});
  EXPECT_EQ(engine_.started.size(), 2U) << "it is asked no more";
  for (int i = 0; i < 5; ++i) {
    for (const SequenceEvent& event : other.Step(1000)) scheduler_->OnEvent(event);
  }
  EXPECT_EQ(heard->tokens, 6);
  EXPECT_TRUE(heard->done);
  EXPECT_EQ(scheduler_->num_running(), 0);
}

TEST_F(RequestSchedulerTest, WaitsForAnotherEngineWhenTheOnlyOneLeaves) {
  Start({});
  const auto heard = Submit({.answer = 3});
  scheduler_->OnEvent({engine_.started[0].sequence_id,
                       SequenceFailed{absl::UnavailableError("the engine is draining"), true}});
  EXPECT_EQ(engine_.started.size(), 1U);
  EXPECT_EQ(scheduler_->num_waiting(), 1);
  EXPECT_FALSE(heard->failed);
  SimulatedEngine other;
  other.Join(&engines_, "engine-1", 0, 0);
  scheduler_->Dispatch();
  EXPECT_EQ(other.started.size(), 1U);
}

TEST_F(RequestSchedulerTest, FailsWhatHasBegunWhenItsEngineRefuses) {
  Start({});
  const auto heard = Submit({.answer = 3});
  Step();
  scheduler_->OnEvent({engine_.started[0].sequence_id,
                       SequenceFailed{absl::UnavailableError("the engine is draining"), true}});
  ASSERT_TRUE(heard->failed);
  EXPECT_EQ(heard->failed->message(), "the engine is draining");
}

TEST_F(RequestSchedulerTest, WaitsForAPlaceAndStartsByClass) {
  Start({.max_running = 1});
  const auto first = Submit({});
  const auto batch = Submit({.qos = QosClass::kBatch});
  const auto realtime = Submit({.qos = QosClass::kRealtime});
  EXPECT_TRUE(batch->started) << "its client has id and seed at once";
  EXPECT_EQ(scheduler_->num_waiting(), 2);
  EXPECT_EQ(engine_.started.size(), 1U);
  Finish();
  EXPECT_TRUE(first->done && batch->done && realtime->done);
  EXPECT_EQ(engine_.started[1].qos, QosClass::kRealtime);
  EXPECT_EQ(engine_.started[2].qos, QosClass::kBatch);
}

TEST_F(RequestSchedulerTest, KeepsPlacesForTheClassesAbove) {
  Start({.max_running = 10});
  for (int i = 0; i < 20; ++i) Submit({.qos = QosClass::kSheddable});
  EXPECT_EQ(scheduler_->num_running(), 7);
  for (int i = 0; i < 20; ++i) Submit({.qos = QosClass::kBatch});
  EXPECT_EQ(scheduler_->num_running(), 9);
  for (int i = 0; i < 20; ++i) Submit({.qos = QosClass::kRealtime});
  EXPECT_EQ(scheduler_->num_running(), 10);
}

TEST_F(RequestSchedulerTest, ARequestThatHasMovedUpStopsNobodyThere) {
  Start({.max_running = 10, .queue = {.aging = seconds(2)}});
  for (int i = 0; i < 8; ++i) Submit({.answer = 1000});
  const auto old = Submit({.qos = QosClass::kSheddable, .answer = 1000});
  EXPECT_EQ(scheduler_->num_running(), 8);
  for (int i = 0; i < 5; ++i) {
    clock_.Advance(seconds(2));
    scheduler_->Tick();
  }
  EXPECT_EQ(scheduler_->num_running(), 9) << "the old one runs in a place of the class above";
  EXPECT_TRUE(Submit({.qos = QosClass::kRealtime})->started);
  EXPECT_EQ(scheduler_->num_running(), 10);
  EXPECT_FALSE(old->failed);
}

TEST_F(RequestSchedulerTest, HeedsTheRoomOfEachEngine) {
  Start({}, /*engine_sequences=*/4, /*kv_tokens=*/100);
  Submit({.choices = 2});
  Submit({.choices = 2});
  EXPECT_EQ(scheduler_->num_waiting(), 1) << "interactive requests may not fill the last place";
  SimulatedEngine other;
  other.Join(&engines_, "engine-1", 0, 0);
  scheduler_->Dispatch();
  EXPECT_EQ(scheduler_->num_waiting(), 0);
  EXPECT_EQ(other.started.size(), 2U);
  scheduler_.reset();
}

TEST_F(RequestSchedulerTest, DoesNotOvercommitTheKvCache) {
  Start({}, /*engine_sequences=*/100, /*kv_tokens=*/100);
  Submit({.qos = QosClass::kRealtime, .prompt = 50, .answer = 10});
  Submit({.qos = QosClass::kRealtime, .prompt = 30, .answer = 9});
  EXPECT_EQ(engine_.started.size(), 2U);
  const auto third = Submit({.qos = QosClass::kRealtime, .prompt = 4, .answer = 4});
  EXPECT_EQ(engine_.started.size(), 2U);
  Finish();
  EXPECT_TRUE(third->done);
  // What no cache could hold beside others runs alone.
  const auto large = Submit({.prompt = 4000, .answer = 4});
  Finish();
  EXPECT_TRUE(large->done);
}

TEST_F(RequestSchedulerTest, HoldsATenantToItsOwnLimit) {
  Start({});
  const Tenant small{.name = "small", .max_running = 2};
  for (int i = 0; i < 5; ++i) Submit({.tenant = &small});
  const Tenant other_tenant{.name = "other"};
  const auto other = Submit({.tenant = &other_tenant});
  EXPECT_EQ(engine_.started.size(), 3U);
  EXPECT_EQ(scheduler_->num_waiting(), 3);
  Finish();
  EXPECT_TRUE(other->done);
  EXPECT_EQ(engine_.started.size(), 6U);
}

TEST_F(RequestSchedulerTest, RefusesWhenTheQueueIsFull) {
  Start({.max_running = 1, .max_waiting = 2});
  Submit({});
  const auto sheddable = Submit({.qos = QosClass::kSheddable});
  const auto waiting = Submit({});
  const auto refused = Submit({.qos = QosClass::kSheddable});
  EXPECT_EQ(ReasonOf(*refused), "TOO_MANY_REQUESTS");
  EXPECT_FALSE(refused->started);
  EXPECT_FALSE(sheddable->failed);
  const auto urgent = Submit({.qos = QosClass::kRealtime});  // pushes out the sheddable one
  EXPECT_EQ(ReasonOf(*sheddable), "TOO_MANY_REQUESTS");
  EXPECT_FALSE(urgent->failed);
  Finish();
  EXPECT_TRUE(urgent->done && waiting->done);
}

TEST_F(RequestSchedulerTest, StartsNothingThatCannotFinishWhileOthersWait) {
  Start({.max_running = 1});
  const auto answer = [&] {  // one request's twenty tokens, in two seconds
    for (int i = 0; i < 20; ++i) {
      clock_.Advance(milliseconds(100));
      Step();
    }
  };
  Submit({.answer = 20});
  answer();  // so it is known how long an answer takes
  const auto running = Submit({.answer = 20});
  const auto late = Submit({.answer = 20, .timeout = seconds(3)});
  const auto waiting = Submit({.answer = 20});
  answer();
  EXPECT_TRUE(running->done);
  ASSERT_TRUE(late->failed);  // with a second left
  EXPECT_EQ(late->failed->code(), absl::StatusCode::kDeadlineExceeded);
  EXPECT_EQ(engine_.started.size(), 3U);
  const auto alone = Submit({.answer = 20, .timeout = seconds(3)});
  answer();
  EXPECT_TRUE(waiting->done);
  EXPECT_FALSE(alone->failed);  // nobody else would use the place
  answer();
  EXPECT_TRUE(alone->done);
}

TEST_F(RequestSchedulerTest, RequestsThatRunAndWaitAreLateTogether) {
  Start({.max_running = 1});
  std::vector<std::shared_ptr<Heard>> late;
  for (int i = 0; i < 40; ++i) late.push_back(Submit({.timeout = seconds(1)}));
  const auto patient = Submit({});
  clock_.Advance(milliseconds(1001));
  scheduler_->Tick();
  for (const auto& heard : late) {
    ASSERT_TRUE(heard->failed);
    EXPECT_TRUE(absl::IsDeadlineExceeded(*heard->failed));
  }
  EXPECT_EQ(scheduler_->num_running(), 1);
  Finish();
  EXPECT_TRUE(patient->done);
}

TEST_F(RequestSchedulerTest, WhatTooLittleTimeIsLeftForCostsItsTenantNothing) {
  Start({.max_running = 1});
  const Tenant hasty{.name = "hasty"};
  const Tenant patient{.name = "patient"};
  Submit({.answer = 10});
  for (int i = 0; i < 20; ++i)
    Submit({.tenant = &hasty, .prompt = 500, .timeout = milliseconds(50)});
  for (int i = 0; i < 3; ++i) Submit({.tenant = &patient, .prompt = 10, .answer = 10});
  clock_.Advance(milliseconds(40));
  Submit({.tenant = &hasty, .prompt = 10, .answer = 10});
  clock_.Advance(milliseconds(20));
  Finish();  // of those 20 each is found to be late when its turn comes
  std::vector<size_t> of_hasty;
  for (size_t i = 1; i < engine_.started.size(); ++i) {
    if (engine_.started[i].request_id == "r25") of_hasty.push_back(i);
  }
  ASSERT_EQ(engine_.started.size(), 5U);
  ASSERT_EQ(of_hasty.size(), 1U);
  EXPECT_LE(of_hasty[0], 2U) << "it has had nothing before, as the other";
}

TEST_F(RequestSchedulerTest, RefusesAtOnceWhatUsuallyTakesLonger) {
  Start({.max_running = 8});
  Submit({.answer = 20});
  EXPECT_FALSE(Submit({.answer = 20, .timeout = seconds(1)})->failed) << "nothing is known yet";
  for (int i = 0; i < 20; ++i) {
    clock_.Advance(milliseconds(100));
    Step();
    scheduler_->Tick();
  }
  const auto hasty = Submit({.answer = 20, .timeout = seconds(1)});
  EXPECT_EQ(ReasonOf(*hasty), "DEADLINE_OUT_OF_REACH");
  EXPECT_FALSE(Submit({.answer = 20, .timeout = seconds(3)})->failed);
  EXPECT_FALSE(Submit({.answer = 5, .timeout = seconds(1)})->failed) << "a short answer";
  Finish();
  // What was so is not so for ever.
  for (int i = 0; i < 60; ++i) {
    clock_.Advance(milliseconds(100));
    scheduler_->Tick();
  }
  EXPECT_FALSE(Submit({.answer = 20, .timeout = seconds(1)})->failed);
}

TEST_F(RequestSchedulerTest, RefusesWhatCannotMeetItsDeadline) {
  Start({.max_running = 1});
  // Ten seconds of work at 10 tokens a second, and always something that waits.
  for (int i = 0; i < 20; ++i) Submit({.prompt = 1, .answer = 20});
  for (int i = 0; i < 100; ++i) {
    Step();
    clock_.Advance(milliseconds(100));
    scheduler_->Tick();
  }
  ASSERT_GT(scheduler_->num_waiting(), 5);
  const auto hasty = Submit({.timeout = seconds(25)});  // due after all of those
  EXPECT_EQ(ReasonOf(*hasty), "DEADLINE_OUT_OF_REACH");
  EXPECT_GT(rpc::DetailsOf(*hasty->failed).retry_after_ms, 2000);
  EXPECT_FALSE(Submit({.timeout = seconds(600)})->failed);
  EXPECT_FALSE(Submit({.timeout = seconds(5)})->failed) << "due before all of those";
  // Another tenant waits for no more than its share.
  const Tenant other{.name = "other"};
  EXPECT_FALSE(Submit({.tenant = &other, .timeout = seconds(25)})->failed);
  // In a class above nothing waits.
  EXPECT_FALSE(Submit({.qos = QosClass::kRealtime, .timeout = seconds(2)})->failed);
}

TEST_F(RequestSchedulerTest, EndsWaitingRequestsInEveryWay) {
  Start({.max_running = 1});
  Submit({});
  const auto cancelled = Submit({.id = "cancelled"});
  const auto late = Submit({.timeout = seconds(1)});
  const auto abandoned = Submit({});
  scheduler_->Abandon(last_key_);
  EXPECT_TRUE(scheduler_->Cancel("", "cancelled").ok());
  EXPECT_TRUE(absl::IsNotFound(scheduler_->Cancel("", "cancelled")));
  EXPECT_EQ(cancelled->finished, std::vector<FinishReason>{FinishReason::kCancelled});
  EXPECT_TRUE(cancelled->done);
  clock_.Advance(seconds(1));
  scheduler_->Tick();
  EXPECT_TRUE(absl::IsDeadlineExceeded(*late->failed));
  EXPECT_FALSE(abandoned->failed);
  EXPECT_EQ(scheduler_->num_waiting(), 0);
  EXPECT_EQ(engine_.started.size(), 1U);
  EXPECT_TRUE(engine_.cancelled.empty());
}

TEST_F(RequestSchedulerTest, WaitsAMomentForAnEngine) {
  Start({.max_running = 1, .engine_wait = seconds(2)});
  const auto running = Submit({});
  const auto waiting = Submit({});
  engines_.Find("engine-0")->identity.reset();
  engines_.Find("engine-0")->offered.reset();
  scheduler_->FailAllOn("engine-0", absl::UnavailableError("lost"));
  EXPECT_TRUE(running->failed);
  EXPECT_FALSE(waiting->failed);
  EXPECT_EQ(ReasonOf(*Submit({})), "NO_ENGINE");
  scheduler_->Tick();
  clock_.Advance(milliseconds(1999));
  scheduler_->Tick();
  EXPECT_FALSE(waiting->failed);
  SimulatedEngine other;
  other.Join(&engines_, "engine-1", 0, 0);
  scheduler_->Dispatch();
  EXPECT_EQ(other.started.size(), 1U);
  scheduler_.reset();
}

TEST_F(RequestSchedulerTest, GivesUpWithoutAnEngine) {
  Start({.max_running = 1, .engine_wait = seconds(2)});
  Submit({});
  const auto waiting = Submit({});
  engines_.Find("engine-0")->identity.reset();
  scheduler_->FailAllOn("engine-0", absl::UnavailableError("lost"));
  scheduler_->Tick();
  clock_.Advance(seconds(2));
  scheduler_->Tick();
  EXPECT_EQ(ReasonOf(*waiting), "NO_ENGINE");
}

TEST_F(RequestSchedulerTest, RefusesWhatWasPreparedForAnotherModel) {
  Start({});
  EXPECT_EQ(ReasonOf(*Submit({.fingerprint = std::string(64, 'b'), .cache_key = 1})), "NO_ENGINE");
  EXPECT_EQ(cache_.counts().entries, 0);
}

TEST_F(RequestSchedulerTest, RefusesAnIdInUseWhileItWaits) {
  Start({.max_running = 1});
  Submit({});
  Submit({.id = "twice"});
  EXPECT_TRUE(absl::IsAlreadyExists(*Submit({.id = "twice"})->failed));
}

TEST_F(RequestSchedulerTest, FailsEverythingAtTheEnd) {
  Start({.max_running = 1});
  const auto running = Submit({});
  const auto waiting = Submit({});
  scheduler_->FailAll(absl::UnavailableError("the end"));
  EXPECT_TRUE(running->failed && waiting->failed);
  EXPECT_EQ(engine_.started.size(), 1U);
}

}  // namespace
}  // namespace conclave::gateway

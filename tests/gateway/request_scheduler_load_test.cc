// More requests than the engine has room for.
#include <gtest/gtest.h>

#include <map>
#include <vector>

#include "tests/gateway/request_scheduler_fixture.h"

namespace conclave::gateway {
namespace {

using std::chrono::milliseconds;

TEST_F(RequestSchedulerTest, SharesTokensByWeightUnderLoad) {
  Start({.max_running = 8, .max_waiting = 5000}, 8, 0);
  const Tenant loud{.name = "loud", .weight = 1};
  const Tenant quiet{.name = "quiet", .weight = 1};
  std::vector<std::shared_ptr<Heard>> of_loud, of_quiet;
  for (int second = 0; second < 60; ++second) {
    // The engine computes 800 tokens a second; the quiet tenant alone asks for as much.
    for (int i = 0; i < 100; ++i) {
      for (int k = 0; k < 20; ++k)
        of_loud.push_back(Submit({.tenant = &loud, .prompt = 1, .answer = 9}));
      of_quiet.push_back(Submit({.tenant = &quiet, .prompt = 1, .answer = 7}));
      Step(8);
      clock_.Advance(milliseconds(10));
      if (i % 10 == 0) scheduler_->Tick();
    }
  }
  const auto tokens = [](const std::vector<std::shared_ptr<Heard>>& all) {
    double sum = 0;
    for (const auto& heard : all) {
      sum += static_cast<double>(heard->tokens) + (heard->first_token ? 1 : 0);
    }
    return sum;
  };
  const double share = tokens(of_quiet) / (tokens(of_quiet) + tokens(of_loud));
  EXPECT_NEAR(share, 0.5, 0.025);
}

TEST_F(RequestSchedulerTest, SharesTokensBetweenClassesByWeight) {
  Start({.max_running = 40, .max_waiting = 5000}, 40, 0);
  std::map<QosClass, std::vector<std::shared_ptr<Heard>>> of_class;
  int64_t given = 0;
  for (int i = 0; i < 3000; ++i) {  // the engine computes 40 tokens in a step
    for (const QosClass qos : {QosClass::kInteractive, QosClass::kBatch, QosClass::kSheddable}) {
      for (int k = 0; k < 4; ++k)
        of_class[qos].push_back(Submit({.qos = qos, .prompt = 1, .answer = 11}));
    }
    Step(40);
    given += 40;
    clock_.Advance(milliseconds(10));
    if (i % 10 == 0) scheduler_->Tick();
  }
  const auto tokens = [&](QosClass qos) {
    double sum = 0;
    for (const auto& heard : of_class[qos]) sum += static_cast<double>(heard->tokens);
    return sum;
  };
  const double interactive = tokens(QosClass::kInteractive);
  EXPECT_GT(interactive, 0.7 * static_cast<double>(given));
  EXPECT_NEAR(tokens(QosClass::kBatch) / interactive, 4.0 / 16, 0.03);
  EXPECT_NEAR(tokens(QosClass::kSheddable) / interactive, 1.0 / 16, 0.02);
}

// A tenant whose large requests find no room, beside another whose small ones would fill it for
// ever.
TEST_F(RequestSchedulerTest, ALargeRequestIsNotPassedForEver) {
  Start({.max_running = 100, .max_waiting = 5000}, 100, /*kv_tokens=*/1000);
  const Tenant small{.name = "small"};
  const Tenant large{.name = "large"};
  SimulatedEngine other;
  other.Join(&engines_, "engine-1", 100, 1000);
  for (int i = 0; i < 40; ++i) Submit({.tenant = &small, .prompt = 40, .answer = 10});
  const auto waits = Submit({.tenant = &large, .prompt = 700, .answer = 100});
  int64_t computed = 0;
  int steps = 0;
  for (; !waits->first_token && steps < 10'000; ++steps) {
    for (int k = 0; k < 10; ++k) Submit({.tenant = &small, .prompt = 40, .answer = 10});
    for (SimulatedEngine* const engine : {&engine_, &other}) {
      const std::vector<SequenceEvent> events = engine->Step(20);
      computed += static_cast<int64_t>(events.size());
      for (const SequenceEvent& event : events) scheduler_->OnEvent(event);
    }
    clock_.Advance(milliseconds(100));
    scheduler_->Tick();
  }
  EXPECT_GT(steps, 50) << "smaller ones pass it for five seconds";
  EXPECT_LT(steps, 100);
  EXPECT_GT(computed, 25 * steps) << "one engine at most was kept from others";
  scheduler_.reset();
}

// Five times what the engine can do, for a minute: it stays busy, and the urgent ones notice
// nothing.
TEST_F(RequestSchedulerTest, StaysUsefulUnderOverload) {
  Start({.max_running = 32, .max_waiting = 200}, 32, 0);
  std::vector<std::pair<TimePoint, std::shared_ptr<Heard>>> realtime;
  int64_t given = 0;
  int64_t steps = 0;
  for (int i = 0; i < 6000; ++i) {  // 10 ms each; the engine computes 16 tokens in a step
    Submit({.qos = QosClass::kSheddable, .prompt = 1, .answer = 16});
    Submit({.qos = QosClass::kBatch, .prompt = 1, .answer = 16});
    Submit({.qos = QosClass::kInteractive, .prompt = 1, .answer = 16});
    Submit({.qos = QosClass::kInteractive, .prompt = 1, .answer = 16});
    if (i % 5 == 0)
      realtime.emplace_back(clock_.Now(),
                            Submit({.qos = QosClass::kRealtime, .prompt = 1, .answer = 16}));
    const std::vector<SequenceEvent> events = engine_.Step(16);
    for (const SequenceEvent& event : events) {
      given += std::holds_alternative<SequenceTokens>(event.what);
      scheduler_->OnEvent(event);
    }
    ++steps;
    clock_.Advance(milliseconds(10));
    if (i % 10 == 0) scheduler_->Tick();
  }
  EXPECT_GE(static_cast<double>(given), 0.95 * 16 * static_cast<double>(steps));
  int64_t slow = 0;
  for (const auto& [arrival, heard] : realtime) {
    EXPECT_FALSE(heard->failed);
    if (heard->first_token && *heard->first_token - arrival > milliseconds(10)) ++slow;
  }
  EXPECT_LE(slow, static_cast<int64_t>(realtime.size() / 100));
}

}  // namespace
}  // namespace conclave::gateway

// More requests than the engine has room for.
#include <gtest/gtest.h>

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

// Any schedule gives the same tokens: whatever the cache's size, the budget, the company, the order
// of arrival and the cancellations, a sequence that ends has the tokens and log-probabilities that
// it has alone.
#include <chrono>
#include <set>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "rapidcheck/gtest.h"
#include "services/engine/stepper.h"
#include "tests/engine/golden_engine.h"
#include "tests/engine/request_mixture.h"

namespace conclave::engine {
namespace {

constexpr int kRequests = 8;
constexpr int64_t kTokens = 40;

const std::vector<Outcome>& Alone(const GoldenModel& model) {
  static std::map<const GoldenModel*, std::vector<Outcome>> known;
  std::vector<Outcome>& outcomes = known[&model];
  if (outcomes.empty()) {
    GoldenEngine engine(model, {});
    for (SequenceRequest& request : Mixture(engine, model, kRequests, kTokens)) {
      outcomes.push_back(engine.Run(std::move(request)));
    }
  }
  return outcomes;
}

void RunAnySchedule(const GoldenModel& model) {
  const std::vector<Outcome>& alone = Alone(model);
  GoldenEngineOptions options;
  options.num_blocks = *rc::gen::inRange(8, 40);
  options.context_tokens = 8 * 32;
  options.step_budget_ms = *rc::gen::element(1e-6, 2.0, 10.0, 1e6);
  options.max_step_tokens = *rc::gen::inRange(1, 200);
  options.max_batch = *rc::gen::inRange(1, kRequests + 1);
  options.threads = *rc::gen::inRange(1, 3);
  GoldenEngine engine(model, options);
  std::vector<SequenceRequest> requests = Mixture(engine, model, kRequests, kTokens);
  std::set<uint64_t> cancelled;
  size_t next = 0;
  while (next < requests.size()) {
    switch (*rc::gen::weightedElement<int>({{3, 0}, {1, 1}, {4, 2}})) {
      case 0: {
        SequenceRequest& request = requests[next++];
        request.qos = *rc::gen::element(QosClass::kRealtime, QosClass::kInteractive,
                                        QosClass::kBatch, QosClass::kSheddable);
        request.sampling.pace = *rc::gen::element(0.0, 0.0, 300.0);
        request.arrived = engine.clock.Now();
        engine.Start(std::move(request));
        break;
      }
      case 1:
        if (next > 0) {
          const uint64_t id = *rc::gen::inRange<uint64_t>(1, next + 1);
          engine.stepper.Cancel({1, id});
          cancelled.insert(id);
        }
        break;
      case 2:
        for (int steps = *rc::gen::inRange(1, 30); steps > 0; --steps) {
          engine.stepper.Step();
          engine.clock.Advance(std::chrono::milliseconds(1));
        }
        break;
    }
  }
  engine.RunAll(20000);
  for (uint64_t id = 1; id <= kRequests; ++id) {
    const Outcome& outcome = engine.Of(id);
    RC_ASSERT(outcome.finished.has_value());
    if (outcome.finished->reason == EndReason::kCancelled) {
      RC_ASSERT(cancelled.contains(id));
      continue;
    }
    RC_ASSERT(outcome.ids == alone[id - 1].ids);
    RC_ASSERT(outcome.logprobs.size() == alone[id - 1].logprobs.size());
    for (size_t i = 0; i < outcome.logprobs.size(); ++i) {
      RC_ASSERT(outcome.logprobs[i].chosen == alone[id - 1].logprobs[i].chosen);
    }
  }
}

RC_GTEST_PROP(StepperProperty, AnyScheduleGivesTheSameTokensWithLatentAttention, ()) {
  RunAnySchedule(LoadGolden("deepseek_v3", kernels::NumericsClass::kBf16));
}

RC_GTEST_PROP(StepperProperty, AnyScheduleGivesTheSameTokensInEightBits, ()) {
  RunAnySchedule(LoadGolden("deepseek_v3", kernels::NumericsClass::kInt8));
}

RC_GTEST_PROP(StepperProperty, AnyScheduleGivesTheSameTokensInFourBits, ()) {
  RunAnySchedule(LoadGolden("qwen3_moe", kernels::NumericsClass::kInt4));
}

RC_GTEST_PROP(StepperProperty, AnyScheduleGivesTheSameTokensWithGroupedAttention, ()) {
  RunAnySchedule(LoadGolden("qwen3_moe", kernels::NumericsClass::kBf16));
}

}  // namespace
}  // namespace conclave::engine

// A whole engine over a reference checkpoint (tests/golden), without service and thread: the real
// forward pass, experts in this process, a simulated clock, and a sink that keeps what it is given.
#pragma once

#include <cstdint>
#include <filesystem>
#include <fstream>
#include <map>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "gtest/gtest.h"
#include "nlohmann/json.hpp"
#include "services/engine/dispatch/local_dispatch.h"
#include "services/engine/stepper.h"
#include "shared/experts/expert_set.h"
#include "shared/weights/checkpoint.h"
#include "shared/weights/engine_weights.h"

namespace conclave::engine {

// A checkpoint loaded once for all tests of a program.
struct GoldenModel {
  nlohmann::json golden;
  std::shared_ptr<const weights::Checkpoint> checkpoint;
  std::shared_ptr<const weights::EngineWeights> weights;

  std::vector<int32_t> Prompt(size_t i) const { return golden["prompts"][i]["ids"]; }
  std::vector<int32_t> GreedyIds(size_t i) const { return golden["prompts"][i]["greedy_ids"]; }
  size_t num_prompts() const { return golden["prompts"].size(); }
};

inline const GoldenModel& LoadGolden(const std::string& family, kernels::NumericsClass numerics) {
  static std::map<std::pair<std::string, kernels::NumericsClass>, GoldenModel> loaded;
  GoldenModel& model = loaded[{family, numerics}];
  if (model.checkpoint != nullptr) return model;
  const std::filesystem::path dir =
      std::filesystem::path(CONCLAVE_SOURCE_DIR) / "tests" / "golden" / family;
  std::ifstream(dir / "golden.json") >> model.golden;
  auto checkpoint = weights::Checkpoint::Open(dir, {});
  if (!checkpoint.ok()) throw std::runtime_error(checkpoint.status().ToString());
  model.checkpoint = *std::move(checkpoint);
  auto weights = weights::LoadEngineWeights(*model.checkpoint, numerics, nullptr);
  if (!weights.ok()) throw std::runtime_error(weights.status().ToString());
  model.weights = *std::move(weights);
  return model;
}

inline std::unique_ptr<experts::ExpertSet> LoadAllExperts(const GoldenModel& model) {
  auto set = std::make_unique<experts::ExpertSet>(model.checkpoint, model.weights->numerics);
  const weights::ModelConfig& config = model.checkpoint->config();
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    if (!config.IsMoe(layer)) continue;
    for (int32_t expert = 0; expert < config.moe.num_experts; ++expert) {
      const absl::Status status = set->Load({layer, expert});
      if (!status.ok()) throw std::runtime_error(status.ToString());
    }
  }
  return set;
}

// What one sequence came to.
struct Outcome {
  std::vector<int32_t> ids;
  std::vector<ChosenLogprobs> logprobs;
  std::optional<FinishedEvent> finished;
  std::optional<absl::Status> failed;
  bool ended() const { return finished.has_value() || failed.has_value(); }
};

// Checks the order of events and gathers them by sequence.
class RecordingSink : public EventSink {
 public:
  void Deliver(uint64_t stream, std::vector<SequenceEvent> events) override {
    EXPECT_FALSE(events.empty());
    ++deliveries;
    for (SequenceEvent& event : events) {
      const SequenceKey key{stream, event.sequence_id};
      Outcome& outcome = outcomes[key];
      EXPECT_FALSE(outcome.ended()) << "an event after the last one";
      if (auto* tokens = std::get_if<TokensEvent>(&event.what)) {
        EXPECT_EQ(tokens->token_index, first_index[key] + static_cast<int64_t>(outcome.ids.size()));
        outcome.ids.insert(outcome.ids.end(), tokens->ids.begin(), tokens->ids.end());
        for (ChosenLogprobs& one : tokens->logprobs) outcome.logprobs.push_back(std::move(one));
      } else if (auto* finished = std::get_if<FinishedEvent>(&event.what)) {
        outcome.finished = *finished;
      } else {
        outcome.failed = std::get<FailedEvent>(event.what).status;
      }
    }
  }

  std::map<SequenceKey, Outcome> outcomes;
  std::map<SequenceKey, int64_t> first_index;  // of a continued sequence: how many ids it came with
  int deliveries = 0;
};

struct GoldenEngineOptions {
  int32_t num_blocks = 64;
  int64_t context_tokens = 512;
  double step_budget_ms = 1e6;
  int64_t max_step_tokens = 1024;
  int32_t max_batch = 64;
  int threads = 1;
  bool prefix_cache = true;
};

class GoldenEngine {
 public:
  GoldenEngine(const GoldenModel& model, const GoldenEngineOptions& options)
      : model_(model),
        context(kernels::BestCpuLevel(), options.threads),
        experts(LoadAllExperts(model)),
        dispatch(experts.get(), &clock, &context),
        cache(*MapKvMemory(options.num_blocks,
                           KvBlockBytesOf(model.checkpoint->config(), model.weights->numerics)),
              options.prefix_cache),
        forward(model.weights, cache.storage(), options.context_tokens, &dispatch, &context),
        metrics(&registry),
        stepper(StepperOptions(model, options), {.forward = &forward,
                                                 .dispatch = &dispatch,
                                                 .cache = &cache,
                                                 .context = &context,
                                                 .sink = &sink,
                                                 .metrics = &metrics,
                                                 .clock = &clock}) {}

  SequenceRequest Request(uint64_t id, std::vector<int32_t> prompt, int64_t max_tokens) {
    SequenceRequest request;
    request.key = {1, id};
    request.prompt_ids = std::move(prompt);
    request.max_tokens = max_tokens;
    request.sampling.temperature = 0;
    request.arrived = clock.Now();
    return request;
  }

  void Start(SequenceRequest request) {
    const SequenceLimits limits{.vocab_size = model_.checkpoint->config().vocab_size,
                                .context_tokens = stepper.scheduler().context_tokens()};
    ASSERT_TRUE(ValidateSequenceRequest(request, limits).ok())
        << ValidateSequenceRequest(request, limits);
    sink.first_index[request.key] = static_cast<int64_t>(request.generated_ids.size());
    stepper.Start(std::move(request));
  }

  // Steps until every sequence has ended; time passes where nothing can run.
  void RunAll(int max_steps = 5000) {
    for (int i = 0; i < max_steps && !stepper.scheduler().empty(); ++i) {
      if (stepper.Step()) {
        clock.Advance(std::chrono::milliseconds(1));
      } else if (!stepper.scheduler().empty()) {
        clock.Advance(
            std::max<Duration>(stepper.NextWake() - clock.Now(), std::chrono::milliseconds(1)));
      }
    }
    stepper.Step();  // delivers what the last command left
    EXPECT_TRUE(stepper.scheduler().empty());
    EXPECT_EQ(cache.used_blocks(), 0);
  }

  // What came of a sequence of stream 1.
  const Outcome& Of(uint64_t id) { return sink.outcomes[{1, id}]; }

  // Runs one sequence by itself.
  Outcome Run(SequenceRequest request) {
    const SequenceKey key = request.key;
    Start(std::move(request));
    RunAll();
    return sink.outcomes[key];
  }

 private:
  static Stepper::Options StepperOptions(const GoldenModel& model,
                                         const GoldenEngineOptions& options) {
    Stepper::Options result;
    result.scheduler.step_budget_ms = options.step_budget_ms;
    result.scheduler.max_batch = options.max_batch;
    result.scheduler.max_step_tokens = options.max_step_tokens;
    result.scheduler.context_tokens = options.context_tokens;
    result.scheduler.fingerprint = "golden";
    result.vocab_size = model.checkpoint->config().vocab_size;
    return result;
  }

  const GoldenModel& model_;

 public:
  SimulatedClock clock;
  kernels::Context context;
  std::unique_ptr<experts::ExpertSet> experts;
  LocalDispatch dispatch;
  KvCache cache;
  Forward forward;
  metrics::Registry registry;
  EngineMetrics metrics;
  RecordingSink sink;
  Stepper stepper;
};

}  // namespace conclave::engine

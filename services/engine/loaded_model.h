// The model in memory and the loop that runs it: weights, experts of its own where the settings say
// so, KV cache, forward pass, stepper and step loop.
//
// Loaded on the engine's load thread; afterwards the step thread, which the loop owns, uses all of
// it, and other threads reach it through the loop.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/context.h"
#include "services/engine/dispatch/expert_dispatch.h"
#include "services/engine/engine_metrics.h"
#include "services/engine/forward.h"
#include "services/engine/kv_cache.h"
#include "services/engine/sequence_event.h"
#include "services/engine/step_loop.h"
#include "services/engine/stepper.h"
#include "shared/base/clock.h"
#include "shared/experts/expert_set.h"
#include "shared/metrics/registry.h"
#include "shared/model/kv_plan.h"
#include "shared/model/served_model.h"
#include "shared/options/options.h"
#include "shared/weights/engine_weights.h"

namespace conclave::engine {

// The KV cache that these settings make of so much free memory. INVALID_ARGUMENT when they
// contradict the model; RESOURCE_EXHAUSTED when the memory is short.
absl::StatusOr<model::KvPlan> PlanCache(const weights::ModelConfig& config,
                                        kernels::NumericsClass numerics,
                                        const EngineOptions& options, int64_t available_bytes);

class LoadedModel {
 public:
  // All borrowed, and all outlive the model.
  struct Parts {
    const model::ServedModel* model = nullptr;
    const EngineOptions* options = nullptr;
    kernels::CpuLevel level = kernels::CpuLevel::kReference;
    ExpertDispatch* remote = nullptr;  // null: the experts are loaded here
    EventSink* sink = nullptr;
    EngineMetrics* metrics = nullptr;
    metrics::Registry* registry = nullptr;
    const Clock* clock = nullptr;
    // Called on the loading thread: `what` is "loading" (bytes) or "loading experts" (experts).
    std::function<void(std::string_view what, int64_t done, int64_t total)> progress;
    const std::atomic<bool>* stop = nullptr;  // true: loading of experts ends with CANCELLED
  };

  // INVALID_ARGUMENT when the settings contradict the model; RESOURCE_EXHAUSTED when memory is
  // short; FAILED_PRECONDITION when a file was changed meanwhile. The loop turns already on return.
  static absl::StatusOr<std::unique_ptr<LoadedModel>> Load(const Parts& parts);

  int64_t context_tokens() const { return context_tokens_; }
  int64_t kv_tokens() const { return cache_->capacity_tokens(); }  // that the KV cache holds
  StepLoop& loop() { return *loop_; }

 private:
  explicit LoadedModel(const Parts& parts) : parts_(parts) {}
  absl::Status LoadExperts();
  void TellErrors() const;
  absl::Status MakeCache();
  void StartLoop();
  int num_threads() const { return context_->pool().num_threads(); }

  const Parts parts_;
  int64_t context_tokens_ = 0;

  // In the order of construction; destruction goes backwards: first whoever calls, last what is
  // called.
  std::unique_ptr<kernels::Context> context_;
  std::shared_ptr<const weights::EngineWeights> weights_;
  std::unique_ptr<experts::ExpertSet> experts_;  // null when they are remote, like the next two
  std::unique_ptr<ExpertDispatch> local_dispatch_;
  std::unique_ptr<ExpertDispatch> metered_dispatch_;
  ExpertDispatch* dispatch_ = nullptr;  // the one in use
  std::unique_ptr<KvCache> cache_;
  std::unique_ptr<Forward> forward_;
  std::unique_ptr<Stepper> stepper_;
  std::unique_ptr<StepLoop> loop_;
};

}  // namespace conclave::engine

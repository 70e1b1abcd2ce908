// A model in memory, all experts with it, that computes the logits of whole windows: the engine's
// forward pass without scheduler, service and sampler.
//
// One thread, which is that of `context`.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/context.h"
#include "services/engine/dispatch/expert_dispatch.h"
#include "services/engine/forward.h"
#include "services/engine/kv_memory.h"
#include "shared/base/clock.h"
#include "shared/experts/expert_set.h"
#include "shared/weights/engine_weights.h"
#include "shared/weights/stored_model.h"
#include "shared/weights/weight_formats.h"

namespace conclave::engine {

class EvaluatedModel {
 public:
  using LoadProgress = std::function<void(int64_t done_bytes, int64_t total_bytes)>;

  // Loads `model` in `formats` for windows and answers of at most `window_tokens`, prompts counted.
  // RESOURCE_EXHAUSTED when the weights are larger than the memory that is free; errors of loading.
  // `context` outlives it.
  static absl::StatusOr<std::unique_ptr<EvaluatedModel>> Load(
      std::shared_ptr<const weights::StoredModel> model, const weights::WeightFormats& formats,
      int64_t window_tokens, kernels::Context* context, const LoadProgress& progress);

  int32_t vocab_size() const { return weights_->config.vocab_size; }

  // Called with the position of the first of some rows in the window and the rows [n, vocab_size]:
  // row i predicts what follows that position + i.
  using TakeLogits = std::function<absl::Status(int64_t first, std::span<const float> logits)>;

  // Computes the window, which begins with an empty KV cache, and hands its logits to `take`, in
  // order and in parts; ends with the first error that it gives. `window` is of ids of the
  // vocabulary.
  absl::Status Run(std::span<const int32_t> window, const TakeLogits& take);

  // The likeliest continuation of each prompt, token by token, ties going to the lower id: until
  // one of `stop_ids`, which is left out, or `max_tokens`. Prompts are not empty. `progress` is
  // called with the prompts that are answered.
  absl::StatusOr<std::vector<std::vector<int32_t>>> Continue(
      std::span<const std::vector<int32_t>> prompts, std::span<const int32_t> stop_ids,
      int64_t max_tokens, const std::function<void(int64_t done)>& progress);

 private:
  EvaluatedModel() = default;
  struct Answer;
  absl::Status Prefill(Answer& answer);
  absl::Status Step(std::span<Answer*> running);

  const SteadyClock clock_;
  std::shared_ptr<const weights::EngineWeights> weights_;
  std::unique_ptr<experts::ExpertSet> experts_;
  std::unique_ptr<KvMemory> memory_;
  std::unique_ptr<ExpertDispatch> dispatch_;
  std::unique_ptr<Forward> forward_;
  std::vector<int32_t> blocks_;  // those of each sequence in turn; a window takes the first one's
  size_t blocks_each_ = 0;
};

}  // namespace conclave::engine

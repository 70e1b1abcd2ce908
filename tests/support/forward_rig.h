// A loaded model and a forward pass over a small pool of KV blocks: what tests of the forward pass,
// of the transports and of the goldens stand on.
//
// One thread. Wherever experts live is a DispatchFactory, so that one suite runs over every
// transport.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "kernels/context.h"
#include "services/engine/dispatch/expert_dispatch.h"
#include "services/engine/forward.h"
#include "services/engine/layers/row_buffer.h"
#include "shared/experts/expert_set.h"
#include "shared/weights/checkpoint.h"
#include "shared/weights/engine_weights.h"

namespace conclave::testing {

struct LoadedModel {
  std::shared_ptr<const weights::Checkpoint> checkpoint;
  std::shared_ptr<const weights::EngineWeights> engine;
  std::shared_ptr<experts::ExpertSet> experts;  // holds them all

  const weights::ModelConfig& config() const { return engine->config; }
  kernels::NumericsClass numerics() const { return engine->numerics; }
};

absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadModel(const std::filesystem::path& dir,
                                                             kernels::NumericsClass numerics);

using DispatchFactory = std::function<std::unique_ptr<engine::ExpertDispatch>(
    const LoadedModel& model, kernels::Context& context)>;

// Experts in this process.
DispatchFactory LocalExperts();

struct RigOptions {
  kernels::CpuLevel level = kernels::BestCpuLevel();
  int num_threads = 1;
  int64_t context_tokens = 512;
  int64_t num_blocks = 64;
  uint64_t shuffle_seed = 1;  // of the order in which blocks are handed out
  DispatchFactory dispatch = LocalExperts();
};

class ForwardRig {
 public:
  ForwardRig(std::shared_ptr<const LoadedModel> model, const RigOptions& options);

  // The new tokens of one sequence in a step; `sequence` is any number the caller likes.
  struct Part {
    int sequence = 0;
    std::span<const int32_t> ids;
    int32_t num_logits = 1;
  };

  // Appends the parts to their sequences in one step. Sequences that failed do not grow. Valid
  // until the next step.
  const engine::ForwardOutput& Step(const std::vector<Part>& parts,
                                    engine::ForwardObserver* observer = nullptr);

  // Gives the sequence's blocks back: what comes next starts at position 0.
  void Forget(int sequence);
  int64_t num_tokens(int sequence) const;  // 0 for a number not seen yet
  int64_t num_free_blocks() const { return static_cast<int64_t>(free_blocks_.size()); }

  // Logits [ids.size(), vocab_size] of a new sequence fed in chunks of `chunk` tokens (0: whole),
  // which is then forgotten.
  std::vector<float> LogitsOf(std::span<const int32_t> ids, int64_t chunk,
                              engine::ForwardObserver* observer = nullptr);
  // Greedy continuation of a new sequence, ties to the lower id, which is then forgotten.
  std::vector<int32_t> GreedyOf(std::span<const int32_t> prompt, int num_tokens);

  const LoadedModel& model() const { return *model_; }

 private:
  struct Sequence {
    int64_t num_tokens = 0;
    std::vector<int32_t> blocks;
  };

  const std::shared_ptr<const LoadedModel> model_;
  kernels::Context context_;
  engine::RowBuffer<std::byte> pool_;
  std::vector<int32_t> free_blocks_;
  std::vector<Sequence> sequences_;
  const std::unique_ptr<engine::ExpertDispatch> dispatch_;
  std::unique_ptr<engine::Forward> forward_;
  engine::ForwardOutput output_;
};

}  // namespace conclave::testing

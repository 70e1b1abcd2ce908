// The routed experts that a process holds, and the computation of rows sent to them: the same code
// in an expert worker and in an engine that runs experts itself, so the same bits.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/context.h"
#include "kernels/elementwise.h"
#include "kernels/ffn.h"
#include "shared/base/mutex.h"
#include "shared/weights/expert_weights.h"
#include "shared/weights/stored_model.h"

namespace conclave::experts {

// How many experts of this size to load between two looks at what else is to be done: some tenths
// of a second's worth where weights are converted.
size_t NumAtOnce(int64_t expert_bytes);

// Loaded experts by (layer, expert). Thread-safe: the control thread loads and releases while the
// compute thread finds.
class ExpertSet {
 public:
  ExpertSet(std::shared_ptr<const weights::StoredModel> model,
            const weights::WeightFormats& formats);

  // Maps and packs the expert, outside of the lock, on the threads of `pool` (null: on this one
  // alone); nothing to do when it is held. NOT_FOUND if the model has no such expert.
  absl::Status Load(weights::ExpertId id, kernels::ThreadPool* pool = nullptr);
  // The same for several; from a packed file each on one thread, several at a time. What could be
  // loaded stays, whatever is wrong with others.
  absl::Status LoadAll(std::span<const weights::ExpertId> ids, kernels::ThreadPool* pool);
  // Forgets the expert. A computation that found it before still finishes: memory goes with the
  // last user.
  void Release(weights::ExpertId id);

  std::shared_ptr<const weights::ExpertWeights> Find(
      weights::ExpertId id) const;  // null if not held
  bool Holds(weights::ExpertId id) const;
  std::vector<weights::ExpertId> Held() const;  // ascending
  size_t bytes() const;                         // of the held experts, packed
  weights::SquaredError error() const;          // the sum of theirs

  const weights::ModelConfig& config() const { return model_->config(); }
  kernels::NumericsClass numerics() const { return formats_.numerics; }

 private:
  const std::shared_ptr<const weights::StoredModel> model_;
  const weights::WeightFormats formats_;
  mutable Mutex mutex_;
  std::map<weights::ExpertId, std::shared_ptr<const weights::ExpertWeights>> held_
      GUARDED_BY(mutex_);
};

// Rows of one layer, sorted by expert; they may lie anywhere (in several frames, say). Rows are of
// `type`, aligned to its elements. Nothing is owned.
struct ExpertRows {
  int32_t layer = 0;
  kernels::RowType type = kernels::RowType::kBf16;
  int64_t hidden = 0;
  std::span<const int32_t> experts;  // [num_experts], each once
  std::span<const int32_t>
      first_row;  // [num_experts + 1]: expert e owns rows [first_row[e], first_row[e + 1])
  std::span<const std::byte* const> inputs;  // [num_rows] -> [hidden] of type
  std::span<std::byte* const>
      outputs;  // [num_rows] -> [hidden] of type; rounded once, not weighted
};

// Reusable memory of ComputeExpertRows; one per compute thread.
struct ExpertScratch {
  std::vector<float> input;   // [num_rows, hidden]
  std::vector<float> output;  // [num_rows, hidden]
  std::vector<std::shared_ptr<const weights::ExpertWeights>> held;
  std::vector<kernels::FfnWeights> ffn;
};

// Writes down(silu(gate(x)) * up(x)) of its expert for every row x. A row's result does not depend
// on the other rows. Called on the compute thread that owns `scratch` and `context`. NOT_FOUND
// names the first expert that is not held; then nothing is written.
absl::Status ComputeExpertRows(const ExpertSet& experts, const ExpertRows& rows,
                               ExpertScratch& scratch, kernels::Context& context);

}  // namespace conclave::experts

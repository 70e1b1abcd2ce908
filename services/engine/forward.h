// The forward pass: new tokens of several sequences in, logits out, keys and values into the cache.
//
// Called by the step thread alone. A token's logits depend on the token, its position and its
// sequence's cache, on nothing else (docs/numerics.md): any cut into steps and any company give the
// same bits.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "kernels/attention.h"
#include "kernels/context.h"
#include "services/engine/dispatch/expert_dispatch.h"
#include "shared/model/kv_plan.h"
#include "shared/weights/engine_weights.h"

namespace conclave::engine {

// One sequence's part of a step: any number of new tokens (a prefill chunk, one token, a draft to
// verify).
struct ForwardSequence {
  std::span<const int32_t>
      ids;  // new tokens, at positions first_position, first_position + 1, ...; in the vocabulary
  int64_t first_position = 0;
  std::span<const int32_t> blocks;  // KV blocks that cover [0, first_position + ids.size())
  int32_t num_logits = 1;  // logits are computed for the last num_logits of the new tokens; 0: none
  RowOrigin origin;
  std::string_view
      traceparent;  // of the request, or empty; a step's frames carry the first there is
};

struct ForwardOutput {
  // Row i * vocab_size: logits, in the order of the sequences and of their positions; sequences
  // that failed have their rows too, with undefined contents.
  std::vector<float> logits;
  // [num_sequences]: OK, or why this sequence left the batch (its cache rows of this step are then
  // void).
  std::vector<absl::Status> status;
  int64_t expert_us = 0;
};

// What tests look at; called with the rows of the step that are still in it, in order.
struct ForwardObserver {
  virtual ~ForwardObserver() = default;
  // stage "embed" (layer -1), "layer" (the residual stream after it), or "final_norm" (layer -1;
  // the rows with logits only).
  virtual void OnHidden(std::string_view stage, int32_t layer,
                        kernels::MatrixView<const float> rows) = 0;
  virtual void OnRoutes(int32_t layer, kernels::MatrixView<const int32_t> ids,
                        kernels::MatrixView<const float> weights) = 0;
};

// The memory of the KV blocks of all layers: layer l's part of block b starts at
// base + b * block_stride_bytes + l * kernels::KvBlockBytes(KvShapeOf(...)).
struct KvStorage {
  std::byte* base = nullptr;
  int64_t block_stride_bytes = 0;  // of all layers together, at least KvBlockBytesOf
};

using model::KvBlockBytesOf;
using model::KvShapeOf;

class Forward {
 public:
  // Borrows the dispatch, the storage and the context, which outlive it. `context_tokens` bounds
  // positions (rope table).
  Forward(std::shared_ptr<const weights::EngineWeights> weights, KvStorage storage,
          int64_t context_tokens, ExpertDispatch* dispatch, kernels::Context* context);
  ~Forward();

  // One step. `sequences` and what they borrow stay valid until it returns; no two share a block
  // that this step writes. CHECK-fails on an id beyond the vocabulary, a position beyond the
  // context and blocks that do not cover the tokens: requests are validated where they enter. With
  // an observer the last layer is run for every row, else only for rows with logits: the same bits.
  void Run(std::span<const ForwardSequence> sequences, ForwardOutput* output,
           ForwardObserver* observer = nullptr);

 private:
  class State;
  std::unique_ptr<State> state_;
};

}  // namespace conclave::engine

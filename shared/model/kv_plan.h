// How much KV cache an engine takes and how long its sequences may be, from the settings, the model
// and the memory there is.
//
// Pure. Called by the engine once, after the weights are loaded, and by `conclave doctor` before.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "kernels/attention.h"
#include "shared/weights/model_config.h"

namespace conclave::model {

// What one layer's cache looks like, and bytes of one block over all layers.
kernels::KvShape KvShapeOf(const weights::ModelConfig& config, kernels::NumericsClass numerics);
int64_t KvBlockBytesOf(const weights::ModelConfig& config, kernels::NumericsClass numerics);

// Blocks that cover `num_tokens` tokens.
int32_t BlocksFor(int64_t num_tokens);
// Tokens that so many blocks hold.
int64_t TokensIn(int64_t num_blocks);

struct KvDemand {
  int64_t model_context = 0;    // the longest the model was made for, tokens
  int64_t block_bytes = 0;      // of one block over all layers
  int64_t context = 0;          // setting; 0: what the model allows and memory fits
  int64_t kv_bytes = 0;         // setting kv_memory; 0: what fits
  double share = 0.4;           // then of the free memory at most, setting kv_memory_share
  int32_t max_batch = 1;        // setting
  int64_t available_bytes = 0;  // memory that is free now
};

struct KvPlan {
  int64_t context_tokens = 0;
  int32_t num_blocks = 0;
  std::string reason;  // what decided, for the log
};

// By default the cache holds max_batch sequences of full length, but takes at most a share of the
// free memory: other processes of the cluster may be loading on the same machine. Errors name
// both numbers and what to change: INVALID_ARGUMENT (settings that contradict the model or each
// other), RESOURCE_EXHAUSTED (not enough memory).
absl::StatusOr<KvPlan> PlanKv(const KvDemand& demand);

}  // namespace conclave::model

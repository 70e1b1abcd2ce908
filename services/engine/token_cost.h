// How large a model is, counted from its config: what it needs in memory before it is loaded, and
// what a token costs.
//
// Pure; used while the engine starts.
#pragma once

#include <cstdint>

#include "kernels/matrix.h"
#include "shared/weights/model_config.h"

namespace conclave::engine {

struct ModelSize {
  int64_t engine_parameters =
      0;  // held by an engine: all but the routed experts; tied embeddings twice
  int64_t expert_parameters = 0;  // of one routed expert
  int64_t num_experts = 0;        // in all layers
  int64_t active_parameters = 0;  // multiplied for one token, routed experts included
  int64_t attention_width =
      0;  // multiply-adds for one token and one position of its context, over all layers
};

ModelSize SizeOf(const weights::ModelConfig& config);

// Bytes of the loaded weights, with the routed experts or without.
int64_t WeightBytes(const ModelSize& size, kernels::NumericsClass numerics, bool with_experts);

}  // namespace conclave::engine

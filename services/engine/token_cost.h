// What one token costs, counted from the model's config: the step-time model's first guess.
//
// Pure; used while the engine starts.
#pragma once

#include <cstdint>

#include "shared/weights/model_config.h"

namespace conclave::engine {

struct TokenCost {
  int64_t parameters = 0;       // multiplied for one token, routed experts included
  int64_t attention_width = 0;  // multiply-adds for one token and one position of its context, over
                                // all layers
};

TokenCost TokenCostOf(const weights::ModelConfig& config);

}  // namespace conclave::engine

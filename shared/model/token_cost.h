// What one token costs, counted from the model's config: the first guess of an engine's step-time
// model, and a part of the bound that `conclave bench model` computes.
//
// Pure.
#pragma once

#include <cstdint>

#include "shared/weights/model_config.h"

namespace conclave::model {

struct TokenCost {
  int64_t parameters = 0;       // multiplied for one token, routed experts included
  int64_t attention_width = 0;  // multiply-adds for one token and one position of its context, over
                                // all layers
};

TokenCost TokenCostOf(const weights::ModelConfig& config);

}  // namespace conclave::model

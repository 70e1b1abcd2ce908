// From a model's config to its table of rotations.
#pragma once

#include <cstdint>

#include "kernels/rope.h"
#include "shared/weights/model_config.h"

namespace conclave::engine {

// The rotated width of a head: all of it, or the rope part of a latent head.
int32_t RopeDimOf(const weights::ModelConfig& config);

kernels::RopePairing RopePairingOf(const weights::RopeConfig& rope);

// For positions [0, num_positions).
kernels::RopeTable MakeRopeTableOf(const weights::ModelConfig& config, int64_t num_positions);

}  // namespace conclave::engine

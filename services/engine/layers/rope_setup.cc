#include "services/engine/layers/rope_setup.h"

#include <vector>

namespace conclave::engine {
namespace {

std::vector<double> FrequenciesOf(const weights::RopeConfig& rope, int32_t rope_dim) {
  if (rope.kind == weights::RopeKind::kYarn) {
    return kernels::YarnFrequencies({.theta = rope.theta,
                                     .factor = rope.factor,
                                     .beta_fast = rope.beta_fast,
                                     .beta_slow = rope.beta_slow,
                                     .original_max_positions = rope.original_max_positions,
                                     .truncate = rope.truncate},
                                    rope_dim);
  }
  std::vector<double> frequencies = kernels::RopeFrequencies(rope.theta, rope_dim);
  if (rope.kind == weights::RopeKind::kLinear) {
    for (double& frequency : frequencies) frequency /= rope.factor;
  }
  return frequencies;
}

}  // namespace

int32_t RopeDimOf(const weights::ModelConfig& config) {
  return config.attention.kind == weights::AttentionKind::kLatent
             ? config.attention.qk_rope_head_dim
             : config.attention.head_dim;
}

kernels::RopePairing RopePairingOf(const weights::RopeConfig& rope) {
  return rope.interleaved ? kernels::RopePairing::kInterleaved : kernels::RopePairing::kHalves;
}

kernels::RopeTable MakeRopeTableOf(const weights::ModelConfig& config, int64_t num_positions) {
  const double scale =
      config.rope.kind == weights::RopeKind::kYarn ? config.rope.attention_factor : 1.0;
  return kernels::MakeRopeTable(FrequenciesOf(config.rope, RopeDimOf(config)), num_positions,
                                scale);
}

}  // namespace conclave::engine

// The rotary part of config.json, in the layouts of transformers 4 (`rope_theta`, `rope_scaling`)
// and 5 (`rope_parameters`, theta inside).
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "shared/weights/config_fields.h"
#include "shared/weights/model_config.h"

namespace conclave::weights {

struct RopeDefaults {
  double theta = 10000;       // of the family, when the config has none
  int64_t max_positions = 0;  // stands in for a missing original_max_position_embeddings
  std::optional<int64_t> original_max_positions = {};  // that the config names outside the object
  bool latent = false;  // DeepSeek: YaRN's mscale_all_dim also scales the scores
};

struct ParsedRope {
  RopeConfig rope;
  double score_scale = 1;  // multiplies 1 / sqrt(query-key width): DeepSeek's m * m, else 1
};

// Reads the fields of `config` (errors go to its status) and of the object they hold. Fields
// unknown there go to `warnings`, or are errors when strict.
ParsedRope ReadRope(ConfigFields& config, const std::string& where, const RopeDefaults& defaults,
                    bool strict, std::vector<std::string>* warnings);

// ln(x) for finite x > 0, the same bits on every machine: the result reaches weights of attention
// scores and the fingerprint, and libm's logarithm differs between processors.
double PortableLog(double x);

}  // namespace conclave::weights

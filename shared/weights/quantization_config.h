// What config.json's quantization_config says of how weights are stored. Used by ParseModelConfig.
#pragma once

#include <string>
#include <vector>

#include "shared/weights/config_fields.h"
#include "shared/weights/model_config.h"

namespace conclave::weights {

// Reads the field of `fields`, the whole config's, into fp8_block, integers and stored_dtype.
// Records UNIMPLEMENTED for another method or setting than docs/models.md lists, naming what was
// found and what is supported. Unknown fields are warnings, or errors when strict.
void ReadQuantization(ConfigFields& fields, const std::string& where, bool strict,
                      std::vector<std::string>* warnings, ModelConfig& config);

}  // namespace conclave::weights

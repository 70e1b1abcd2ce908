// Which `model_type`s are served, and what to say of the others.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "shared/weights/model_config.h"

namespace conclave::weights {

// The family of a config's `model_type`. UNIMPLEMENTED for dense models, for Mixture-of-Experts
// families not supported yet, and for names never heard of; each says what to do. `where` names the
// file in messages.
absl::StatusOr<ModelFamily> ParseModelFamily(std::string_view model_type, std::string_view where);

// "deepseek_v2, deepseek_v3, ...".
std::string SupportedFamiliesText();

}  // namespace conclave::weights

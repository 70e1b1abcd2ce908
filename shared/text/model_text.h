// All that a checkpoint folder says about text: tokenizer, chat template, sampling defaults; loaded
// and checked against each other.
//
// Loaded once by the gateway at start, and by `conclave doctor`, so that what the one refuses the
// other refuses too. Shared and immutable.
#pragma once

#include <filesystem>
#include <memory>

#include "absl/status/statusor.h"
#include "shared/text/chat_template.h"
#include "shared/text/model_defaults.h"
#include "shared/text/tokenizer.h"

namespace conclave::text {

struct ModelText {
  std::shared_ptr<const Tokenizer> tokenizer;
  std::shared_ptr<const ChatTemplate> chat_template;
  ModelDefaults defaults;
};

// INVALID_ARGUMENT when the tokenizer has ids that the embedding lacks, naming both sizes; else as
// the loaders of the parts.
absl::StatusOr<ModelText> LoadModelText(const std::filesystem::path& model_dir);

}  // namespace conclave::text

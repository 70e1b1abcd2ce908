// The model as the gateway knows it: its name, tokenizer, chat template and sampling defaults. No
// weights.
//
// Loaded once at start, shared, immutable, thread-safe.
#pragma once

#include <filesystem>
#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "services/gateway/generation.h"
#include "shared/text/chat_template.h"
#include "shared/text/model_defaults.h"
#include "shared/text/tokenizer.h"

namespace conclave::gateway {

class TextModel {
 public:
  // Errors as text::LoadModelText.
  static absl::StatusOr<std::shared_ptr<const TextModel>> Load(
      const std::filesystem::path& model_dir, std::string served_name);

  const std::string& name() const { return name_; }
  const std::shared_ptr<const text::Tokenizer>& tokenizer() const { return tokenizer_; }
  // See ChatTemplate::depends_on_time.
  bool chat_depends_on_time() const { return chat_template_->depends_on_time(); }
  const text::ModelDefaults& defaults() const { return defaults_; }

  // The prompt's ids. Errors as Tokenizer::Encode and ChatTemplate::Render. Token prompts are
  // returned as they are. A long prompt takes about a second a megabyte: see PromptLanes.
  absl::StatusOr<std::vector<int32_t>> Encode(const PromptInput& prompt,
                                              const text::EncodeLimits& limits) const;

 private:
  TextModel() = default;

  std::string name_;
  std::shared_ptr<const text::Tokenizer> tokenizer_;
  std::shared_ptr<const text::ChatTemplate> chat_template_;
  text::ModelDefaults defaults_;
};

}  // namespace conclave::gateway

#include "shared/text/model_text.h"

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"

namespace conclave::text {

absl::StatusOr<ModelText> LoadModelText(const std::filesystem::path& model_dir) {
  ModelText model;
  ASSIGN_OR_RETURN(model.tokenizer, Tokenizer::Load(model_dir));
  ASSIGN_OR_RETURN(model.chat_template, ChatTemplate::Load(model_dir, model.tokenizer));
  ASSIGN_OR_RETURN(model.defaults, LoadModelDefaults(model_dir, model.tokenizer->eos_token_id()));
  const int64_t rows = model.defaults.vocab_size;
  if (rows > 0 && model.tokenizer->vocab_size() > rows) {
    return absl::InvalidArgumentError(absl::StrCat(
        model_dir.string(), ": tokenizer.json has ids up to ", model.tokenizer->vocab_size() - 1,
        ", but the embedding has ", rows,
        " rows (config.json, vocab_size); use the tokenizer the checkpoint was made with"));
  }
  return model;
}

}  // namespace conclave::text

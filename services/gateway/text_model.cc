#include "services/gateway/text_model.h"

#include <utility>

#include "shared/base/status_macros.h"
#include "shared/text/model_text.h"

namespace conclave::gateway {

absl::StatusOr<std::shared_ptr<const TextModel>> TextModel::Load(
    const std::filesystem::path& model_dir, std::string served_name) {
  std::shared_ptr<TextModel> model(new TextModel);
  model->name_ = std::move(served_name);
  ASSIGN_OR_RETURN(text::ModelText loaded, text::LoadModelText(model_dir));
  model->tokenizer_ = std::move(loaded.tokenizer);
  model->chat_template_ = std::move(loaded.chat_template);
  model->defaults_ = std::move(loaded.defaults);
  return model;
}

absl::StatusOr<std::vector<int32_t>> TextModel::Encode(const PromptInput& prompt,
                                                       const text::EncodeLimits& limits) const {
  if (const auto* text = std::get_if<TextPromptInput>(&prompt)) {
    return tokenizer_->Encode(text->text,
                              {.add_special_tokens = text->add_special_tokens,
                               .parse_special_tokens = text->parse_special_tokens},
                              limits);
  }
  if (const auto* chat = std::get_if<ChatPromptInput>(&prompt)) {
    ASSIGN_OR_RETURN(text::ChatPrompt rendered,
                     chat_template_->Render({.messages_json = chat->messages_json,
                                             .add_generation_prompt = chat->add_generation_prompt,
                                             .template_name = {},
                                             .variables_json = chat->variables_json,
                                             .unix_seconds = std::nullopt,
                                             .limits = limits}));
    return std::move(rendered.ids);
  }
  return std::get<TokenPromptInput>(prompt).ids;
}

}  // namespace conclave::gateway

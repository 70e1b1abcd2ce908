// A model's chat templates: messages to the prompt's text and ids, as transformers'
// apply_chat_template makes them, with one difference: an added token's name inside a message
// ("<|user|>" typed by a user) stays plain text.
//
// Loaded once at start and shared: const and thread-safe. Templates are Jinja, run by minijinja in
// the Rust crate under limits of instructions and size, so that a template or a message cannot hold
// a request thread for long.
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "shared/text/tokenizer.h"

namespace conclave::text {

namespace internal {
struct ChatTemplateHandle;
}

struct ChatRequest {
  // A JSON array of message objects, each with at least a string `role`. All members reach the
  // template as they are.
  std::string_view messages_json = {};
  bool add_generation_prompt = true;
  // One of the names of a model with several templates; empty: the default one.
  std::string_view template_name = {};
  // A JSON object of further variables (`chat_template_kwargs` of a request), or empty.
  std::string_view variables_json = {};
  // What `strftime_now` shows, in the local time zone; the system clock if not set.
  std::optional<int64_t> unix_seconds = {};
  EncodeLimits limits = {};
};

struct ChatPrompt {
  std::string text;          // as rendered
  std::vector<int32_t> ids;  // of `text`, without a further BOS: the template writes it
};

class ChatTemplate {
 public:
  // A template larger than this, or a rendering longer than that, is refused.
  static constexpr size_t kMaxTemplateBytes = 1 << 20;
  static constexpr size_t kMaxRenderedBytes = 64 << 20;

  // Takes chat_template.jinja and additional_chat_templates/*.jinja if there, else `chat_template`
  // of tokenizer_config.json: a string, or a list of {name, template}. A model without any loads,
  // and refuses to render. INVALID_ARGUMENT: a template that does not compile; the message names
  // the file and line.
  static absl::StatusOr<std::shared_ptr<const ChatTemplate>> Load(
      const std::filesystem::path& model_dir, std::shared_ptr<const Tokenizer> tokenizer);
  ~ChatTemplate();
  ChatTemplate(const ChatTemplate&) = delete;
  ChatTemplate& operator=(const ChatTemplate&) = delete;

  // False: only completions make sense for this model.
  bool available() const { return !names_.empty(); }
  // "default" if there is only one.
  const std::vector<std::string>& names() const { return names_; }
  // True if the same messages may give another prompt tomorrow.
  bool depends_on_time() const { return depends_on_time_; }

  // FAILED_PRECONDITION: the model has no template (use completions). INVALID_ARGUMENT: malformed
  // JSON, an unknown template name, what the template says by raise_exception, any other error of
  // the template on these messages, or a message that uses a control token in a place where the
  // template itself acts on it. RESOURCE_EXHAUSTED: a limit. OUT_OF_RANGE with
  // AtLeastIds, CANCELLED, DEADLINE_EXCEEDED: as Tokenizer::Encode.
  absl::StatusOr<ChatPrompt> Render(const ChatRequest& request) const;

 private:
  ChatTemplate(std::shared_ptr<const Tokenizer> tokenizer,
               std::unique_ptr<internal::ChatTemplateHandle> handle);

  std::shared_ptr<const Tokenizer> tokenizer_;
  std::unique_ptr<internal::ChatTemplateHandle> handle_;
  std::vector<std::string> names_;
  bool depends_on_time_ = false;
};

}  // namespace conclave::text

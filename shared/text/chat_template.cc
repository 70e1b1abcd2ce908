#include "shared/text/chat_template.h"

#include <algorithm>
#include <ctime>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shared/base/check.h"
#include "shared/base/status_macros.h"
#include "shared/text/bridge_handles.h"
#include "shared/text/text_files.h"

namespace conclave::text {

using internal::ByteSlice;
using internal::Call;

absl::StatusOr<std::shared_ptr<const ChatTemplate>> ChatTemplate::Load(
    const std::filesystem::path& model_dir, std::shared_ptr<const Tokenizer> tokenizer) {
  CONCLAVE_CHECK(tokenizer != nullptr);
  ASSIGN_OR_RETURN(const TextFiles files, ReadTextFiles(model_dir));
  ASSIGN_OR_RETURN(rust::Box<bridge::TemplatesBridge> rust, Call([] {
                     return bridge::new_templates(kMaxTemplateBytes, kMaxRenderedBytes);
                   }));
  std::vector<std::string> names;
  bool depends_on_time = false;
  for (const NamedTemplate& each : files.templates) {
    const absl::Status added =
        Call([&] { rust->add(ByteSlice(each.name), ByteSlice(each.source)); });
    if (!added.ok()) {
      return absl::Status(added.code(), absl::StrCat(each.file, ": chat template \"", each.name,
                                                     "\": ", added.message()));
    }
    names.push_back(each.name);
    depends_on_time = depends_on_time || each.source.find("strftime_now") != std::string::npos;
  }
  std::shared_ptr<ChatTemplate> result(
      new ChatTemplate(std::move(tokenizer), std::make_unique<internal::ChatTemplateHandle>(
                                                 internal::ChatTemplateHandle{std::move(rust)})));
  result->names_ = std::move(names);
  result->depends_on_time_ = depends_on_time;
  return result;
}

ChatTemplate::ChatTemplate(std::shared_ptr<const Tokenizer> tokenizer,
                           std::unique_ptr<internal::ChatTemplateHandle> handle)
    : tokenizer_(std::move(tokenizer)), handle_(std::move(handle)) {}

ChatTemplate::~ChatTemplate() = default;

absl::StatusOr<ChatPrompt> ChatTemplate::Render(const ChatRequest& request) const {
  if (!available()) {
    return absl::FailedPreconditionError(
        "this model has no chat template; use completions, or add chat_template.jinja to the "
        "model's folder");
  }
  // As in transformers: without a name the one called "default".
  const std::string name =
      request.template_name.empty() ? "default" : std::string(request.template_name);
  if (std::find(names_.begin(), names_.end(), name) == names_.end()) {
    return absl::InvalidArgumentError(absl::StrCat("this model has no chat template named \"", name,
                                                   "\"; it has: ", absl::StrJoin(names_, ", ")));
  }
  const absl::StatusOr<bridge::Prompt> prompt = Call([&] {
    return handle_->rust->render(
        *tokenizer_->handle().rust,
        {ByteSlice(name), ByteSlice(request.messages_json), ByteSlice(request.variables_json),
         request.add_generation_prompt,
         request.unix_seconds.value_or(static_cast<int64_t>(std::time(nullptr))),
         static_cast<uint64_t>(request.limits.max_ids), internal::InterruptOf(request.limits)});
  });
  if (!prompt.ok()) return internal::TakeIds(prompt.status(), request.limits).status();
  ASSIGN_OR_RETURN(std::vector<int32_t> ids, internal::TakeIds(prompt->ids, request.limits));
  return ChatPrompt{std::string(prompt->text), std::move(ids)};
}

}  // namespace conclave::text

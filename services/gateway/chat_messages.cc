#include "services/gateway/chat_messages.h"

#include "absl/strings/str_cat.h"
#include "services/gateway/excerpt.h"
#include "services/gateway/strict_json.h"
#include "shared/base/json_writer.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

absl::StatusOr<std::string> ChatMessagesJson(const std::vector<ChatMessage>& messages,
                                             const std::string& field) {
  if (messages.empty()) return rpc::InvalidField(field, "is empty: give at least one message");
  if (messages.size() > kMaxChatMessages) {
    return rpc::InvalidField(field, absl::StrCat("expected at most ", kMaxChatMessages,
                                                 " messages, found ", messages.size()));
  }
  std::string array = "[";
  for (size_t i = 0; i < messages.size(); ++i) {
    const ChatMessage& message = messages[i];
    const bool developer = message.role == "developer";
    if (!developer && message.role != "system" && message.role != "user" &&
        message.role != "assistant") {
      return rpc::InvalidField(absl::StrCat(field, "[", i, "].role"),
                               absl::StrCat("is \"", Excerpt(message.role, 50),
                                            "\"; supported: system, developer, user, assistant"));
    }
    absl::StrAppend(&array, i > 0 ? "," : "", "{\"role\":\"", developer ? "system" : message.role,
                    "\",\"content\":");
    AppendJsonString(message.content, &array);
    if (!message.name.empty()) {
      array += ",\"name\":";
      AppendJsonString(message.name, &array);
    }
    array += '}';
  }
  array += ']';
  return array;
}

absl::Status CheckTemplateArguments(const std::string& json, const std::string& field) {
  const absl::StatusOr<nlohmann::json> parsed = ParseStrictJson(json);
  if (!parsed.ok()) return rpc::InvalidField(field, std::string(parsed.status().message()));
  if (!parsed->is_object()) return rpc::InvalidField(field, "expected a JSON object");
  return CheckTemplateNames(*parsed, field);
}

absl::Status CheckTemplateNames(const nlohmann::json& arguments, const std::string& field) {
  // What the template gets from the request itself.
  for (const char* const name : {"messages", "tools", "documents", "add_generation_prompt",
                                 "raise_exception", "strftime_now"}) {
    if (arguments.contains(name)) {
      return rpc::InvalidField(absl::StrCat(field, ".", name),
                               absl::StrCat("is set by the server; remove it from ", field));
    }
  }
  return absl::OkStatus();
}

}  // namespace conclave::gateway

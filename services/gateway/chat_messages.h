// The messages of a chat, as chat templates want them.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::gateway {

inline constexpr size_t kMaxChatMessages = 4096;

struct ChatMessage {
  std::string role;  // system, developer, user, assistant
  std::string content;
  std::string name;  // of the participant, or empty
};

// A JSON array of {role, content[, name]}; "developer" becomes "system", the name templates know.
// INVALID_ARGUMENT naming `field` and the message for another role, no message or too many.
absl::StatusOr<std::string> ChatMessagesJson(const std::vector<ChatMessage>& messages,
                                             const std::string& field);

// INVALID_ARGUMENT naming `field` unless `json` is a JSON object of arguments for a chat template.
absl::Status CheckTemplateArguments(const std::string& json, const std::string& field);
// INVALID_ARGUMENT naming the member of `field` that the template gets from the server.
absl::Status CheckTemplateNames(const nlohmann::json& arguments, const std::string& field);

}  // namespace conclave::gateway

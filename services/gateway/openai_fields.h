// Which members of a request to the OpenAI-compatible API are served, ignored or refused: the table
// behind docs/openai.md.
//
// Pure.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"

namespace conclave::gateway {

enum class Endpoint : uint8_t { kChat = 1, kCompletions = 2 };

enum class FieldUse : uint8_t {
  kServed,
  kIgnored,  // accepted, has no effect
  kRefused,  // 400, unless the value is one that asks for nothing
};

struct FieldRule {
  std::string_view name;
  uint8_t endpoints;  // bits of Endpoint
  FieldUse use;
  std::string_view
      inert;  // kRefused: JSON array of the values that are accepted all the same (null always is)
  std::string_view why;  // kRefused: ends the message
};

std::span<const FieldRule> OpenAiFields();

// INVALID_ARGUMENT (reason UNSUPPORTED_FIELD) naming the first refused field. Appends the names
// that the endpoint does not know to `unknown`.
absl::Status CheckOpenAiFields(const nlohmann::json& body, Endpoint endpoint,
                               std::vector<std::string>* unknown);

}  // namespace conclave::gateway

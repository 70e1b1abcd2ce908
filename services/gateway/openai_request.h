// A request to /v1/chat/completions or /v1/completions, from its JSON body to the gateway's values.
//
// Pure. Shapes and types are checked here; ranges by Canonicalize.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "services/gateway/canonicalize.h"
#include "services/gateway/generation.h"
#include "services/gateway/openai_fields.h"

namespace conclave::gateway {

inline constexpr uint64_t kLargestJsonSeed = (uint64_t{1} << 53) - 1;
inline constexpr int64_t kMaxCompletionLogprobs = 5;

struct OpenAiRequest {
  Endpoint endpoint = Endpoint::kChat;
  std::string model;
  std::vector<PromptInput> prompts;  // one for a chat
  SamplingInput sampling;
  std::optional<QosClass> qos;
  CacheMode cache = CacheMode::kAuto;
  bool stream = false;
  bool include_usage = false;
  bool return_token_ids = false;
  bool logprobs = false;
  std::vector<std::string> unknown_fields;
  FieldNames field_names;  // as this request calls them
};

// INVALID_ARGUMENT naming the field.
absl::StatusOr<OpenAiRequest> ParseOpenAiRequest(const nlohmann::json& body, Endpoint endpoint);

// `messages` of a body: content is a string or an array of text parts, joined by line feeds.
absl::StatusOr<ChatPromptInput> ParseChatPrompt(const nlohmann::json& body);

// An array of token ids named `field`.
absl::StatusOr<std::vector<int32_t>> ParseIds(const nlohmann::json& array,
                                              const std::string& field);

}  // namespace conclave::gateway

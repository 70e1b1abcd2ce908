// The JSON of OpenAI's answers: whole ones, and the chunks of streamed ones.
//
// Pure functions of values; docs/openai.md describes the shapes.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/gateway/generation_sink.h"
#include "services/gateway/openai_fields.h"
#include "shared/http/message.h"
#include "shared/text/tokenizer.h"

namespace conclave::gateway {

using OrderedJson = nlohmann::ordered_json;

// What all chunks of one answer share.
struct AnswerHead {
  Endpoint endpoint = Endpoint::kChat;
  std::string id;  // "chatcmpl-...", "cmpl-..."
  int64_t created = 0;
  std::string model;
  std::string system_fingerprint;
};

// "data: {...}\n\n" with an id line before it.
std::string SseEvent(int64_t event_id, const OrderedJson& data);
inline constexpr char kSseDone[] = "data: [DONE]\n\n";
inline constexpr char kSseHeartbeat[] = ": waiting\n\n";

// A chunk without choices; `usage` is null or the usage object, and left out when the client did
// not ask for usage.
OrderedJson ChunkHead(const AnswerHead& head);
OrderedJson UsageJson(const Usage& usage);

// One member of `choices` in a chunk. `reason` null: not finished.
OrderedJson RoleChoice(int32_t index);
OrderedJson TextChoice(Endpoint endpoint, int32_t index, const std::string& text,
                       OrderedJson logprobs);
OrderedJson FinishChoice(Endpoint endpoint, int32_t index, FinishReason reason);

// Log-probabilities of a piece of a choice, in the endpoint's format. `text_offset`: characters of
// the choice before the piece; moved on.
OrderedJson LogprobsJson(Endpoint endpoint, const ChoiceTokens& tokens,
                         const text::Tokenizer& tokenizer, int64_t* text_offset);
// Appends the piece `more` to `all` (null at first).
void MergeLogprobs(Endpoint endpoint, const OrderedJson& more, OrderedJson* all);

// One choice of a whole answer.
struct WholeChoice {
  std::string text;
  OrderedJson logprobs;
  std::vector<int32_t> ids;
  FinishReason reason = FinishReason::kStop;
};
OrderedJson WholeChoiceJson(Endpoint endpoint, int32_t index, const WholeChoice& choice);

std::string Dump(const OrderedJson& json);

// A failure as OpenAI's clients expect it, with Retry-After where it helps.
http::Response FailureResponse(const absl::Status& status);
// The same as the data of a stream's event.
OrderedJson FailureJson(const absl::Status& status);

}  // namespace conclave::gateway

// The JSON of OpenAI's answers: whole ones, and the chunks of streamed ones.
//
// Pure functions of values; docs/openai.md describes the shapes.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "services/gateway/generation_sink.h"
#include "services/gateway/openai_fields.h"
#include "shared/base/json_writer.h"
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

inline constexpr char kSseDone[] = "data: [DONE]\n\n";
inline constexpr char kSseHeartbeat[] = ": waiting\n\n";

// How each chunk of a streamed answer begins, or a whole one: up to `"choices":[`.
std::string ChunkBeginning(const AnswerHead& head);
std::string WholeBeginning(const AnswerHead& head);
void WriteUsage(const Usage& usage, JsonWriter& json);
void WriteIds(std::string_view name, std::span<const int32_t> ids, JsonWriter& json);

// One member of `choices` in a chunk: who speaks, a piece of what is said, the end.
void WriteRoleChoice(int32_t index, JsonWriter& json);
struct TextPiece {
  std::string_view text;
  std::string_view logprobs = "null";    // JSON
  const ChoiceTokens* tokens = nullptr;  // its ids are to be shown, too
};
void WriteTextChoice(Endpoint endpoint, int32_t index, const TextPiece& piece, JsonWriter& json);
// `stop`: the stop string that matched, or empty.
void WriteFinishChoice(Endpoint endpoint, int32_t index, FinishReason reason, std::string_view stop,
                       JsonWriter& json);

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
void WriteWholeChoice(Endpoint endpoint, int32_t index, const WholeChoice& choice, bool with_ids,
                      JsonWriter& json);

std::string Dump(const OrderedJson& json);

// A failure as OpenAI's clients expect it, with Retry-After where it helps.
http::Response FailureResponse(const absl::Status& status);
// The body alone, as the data of a stream's event.
std::string FailureBody(const absl::Status& status);

}  // namespace conclave::gateway

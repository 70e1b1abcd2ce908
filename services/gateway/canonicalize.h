// The one way from what a client asked for to the canonical request: checks every value, fills in
// every default (request, then the checkpoint's generation_config.json, then OpenAI's), and turns
// the prompt into ids. In two steps, because the response cache needs the first one only.
//
// Pure but for the drawn seed and id; called on transport threads.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "services/gateway/generation.h"
#include "services/gateway/text_model.h"
#include "shared/text/sampling_ranges.h"

namespace conclave::gateway {

inline constexpr int32_t kMaxChoices = 128;
inline constexpr int32_t kMaxTopLogprobs = 20;
inline constexpr size_t kMaxStopStrings = 16;
inline constexpr size_t kMaxStopStringBytes = 1024;
inline constexpr size_t kMaxStopIds = 128;
inline constexpr size_t kMaxLogitBiases = 1024;
inline constexpr size_t kMaxRequestIdBytes = 128;
// Tokens a second. The slowest still gives a token before anybody takes the stream for dead.
inline constexpr text::Range kPaceRange = {0.01, 1e6};

// How the transport's clients call the fields, for error messages.
struct FieldNames {
  std::string prefix;  // of sampling fields: "sampling." or ""
  std::string num_choices = "num_choices";
  std::string max_tokens = "max_tokens";
  std::string stop_ids = "stop_ids";
  std::string top_logprobs = "top_logprobs";
  std::string prompt = "prompt";
  std::string request_id = "request_id";
};

// What the engines serve now.
struct EngineLimits {
  int64_t context_tokens = 0;  // longest prompt + output
  int32_t vocab_size = 0;
};

// Everything but the prompt's ids. INVALID_ARGUMENT with the field as a violation; NOT_FOUND
// (reason MODEL_NOT_FOUND) for another model.
absl::StatusOr<CheckedRequest> CheckRequest(GenerationInput input, const TextModel& model,
                                            const EngineLimits& limits, const FieldNames& names);
// The rest. INVALID_ARGUMENT for a prompt that cannot be encoded, or (reason
// CONTEXT_LENGTH_EXCEEDED, with both numbers) leaves no room for a token. CANCELLED or
// DEADLINE_EXCEEDED when `interrupt`, which may be null, came meanwhile.
absl::StatusOr<Generation> EncodePrompt(CheckedRequest checked, const TextModel& model,
                                        const EngineLimits& limits, const FieldNames& names,
                                        const text::Interrupt* interrupt);
// For ids that are known already.
absl::Status SetPrompt(SharedIds ids, const EngineLimits& limits, const FieldNames& names,
                       Generation* generation);

// NOT_FOUND (reason MODEL_NOT_FOUND) unless `name` is empty or the served one.
absl::Status CheckModelName(const std::string& name, const TextModel& model);

// The W3C trace context to pass on: `received` if it is well-formed, else empty.
std::string ValidTraceparent(const std::string& received);

// 32 hex digits.
std::string DrawRequestId();

}  // namespace conclave::gateway

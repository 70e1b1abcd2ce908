#include "services/engine/sequence.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"

namespace conclave::engine {
namespace {

// Ranges of OpenAI's API where it has one; the penalties of the field otherwise.
constexpr float kMostTemperature = 100;
constexpr float kMostPenalty = 100;
constexpr int32_t kMostTopLogprobs = 128;
constexpr double kMostPace = 1e6;
constexpr size_t kMostStopIds = 4096;
constexpr size_t kMostBiases = 65536;

absl::Status InRange(std::string_view field, double value, double least, double most) {
  if (value >= least && value <= most) return absl::OkStatus();  // false for NaN
  return absl::InvalidArgumentError(absl::StrCat(absl::string_view(field.data(), field.size()),
                                                 " is ", value, ": must be in [", least, ", ", most,
                                                 "]"));
}

absl::Status IdsInVocabulary(std::string_view field, const std::vector<int32_t>& ids,
                             int32_t vocab_size) {
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0 || ids[i] >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(absl::string_view(field.data(), field.size()),
                                                     "[", i, "] is ", ids[i], ": must be in [0, ",
                                                     vocab_size, "), the model's vocabulary"));
    }
  }
  return absl::OkStatus();
}

absl::Status AtMost(std::string_view field, size_t size, size_t most) {
  if (size <= most) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat(absl::string_view(field.data(), field.size()),
                                                 " has ", size, " entries: at most ", most,
                                                 " are allowed"));
}

absl::Status ValidateSampling(const SamplingRequest& sampling, int32_t vocab_size) {
  RETURN_IF_ERROR(InRange("temperature", sampling.temperature, 0, kMostTemperature));
  RETURN_IF_ERROR(InRange("top_p", sampling.top_p, 0, 1));
  if (sampling.top_p == 0) return absl::InvalidArgumentError("top_p is 0: must be in (0, 1]");
  RETURN_IF_ERROR(InRange("top_k", sampling.top_k, 0, INT32_MAX));
  RETURN_IF_ERROR(InRange("min_p", sampling.min_p, 0, 1));
  RETURN_IF_ERROR(InRange("repetition_penalty", sampling.repetition_penalty, 0, kMostPenalty));
  if (sampling.repetition_penalty < 1e-3f) {
    return absl::InvalidArgumentError(absl::StrCat("repetition_penalty is ",
                                                   sampling.repetition_penalty,
                                                   ": must be at least 0.001; 1 is no penalty"));
  }
  RETURN_IF_ERROR(
      InRange("presence_penalty", sampling.presence_penalty, -kMostPenalty, kMostPenalty));
  RETURN_IF_ERROR(
      InRange("frequency_penalty", sampling.frequency_penalty, -kMostPenalty, kMostPenalty));
  RETURN_IF_ERROR(InRange("pace", sampling.pace, 0, kMostPace));
  if (sampling.top_logprobs.has_value()) {
    RETURN_IF_ERROR(InRange("top_logprobs", *sampling.top_logprobs, 0, kMostTopLogprobs));
  }
  RETURN_IF_ERROR(AtMost("bias_ids", sampling.logit_bias.size(), kMostBiases));
  for (const auto& [id, bias] : sampling.logit_bias) {
    RETURN_IF_ERROR(InRange("bias_ids", id, 0, vocab_size - 1));
    if (!std::isfinite(bias)) {
      return absl::InvalidArgumentError(
          absl::StrCat("bias of id ", id, " is ", bias, ": must be a finite number"));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateSequenceRequest(const SequenceRequest& request, const SequenceLimits& limits) {
  const int64_t num_prompt = static_cast<int64_t>(request.prompt_ids.size());
  const int64_t num_generated = static_cast<int64_t>(request.generated_ids.size());
  if (num_prompt == 0)
    return absl::InvalidArgumentError("the prompt is empty: at least one id is needed");
  if (num_prompt >= limits.context_tokens) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the prompt has ", num_prompt, " tokens and the context ", limits.context_tokens,
        ", of which one is for the answer: shorten the prompt"));
  }
  if (num_prompt + num_generated > limits.context_tokens) {
    return absl::InvalidArgumentError(
        absl::StrCat("prompt and generated ids have ", num_prompt + num_generated,
                     " tokens and the context ", limits.context_tokens));
  }
  RETURN_IF_ERROR(IdsInVocabulary("prompt_ids", request.prompt_ids, limits.vocab_size));
  RETURN_IF_ERROR(IdsInVocabulary("generated_ids", request.generated_ids, limits.vocab_size));
  RETURN_IF_ERROR(AtMost("stop_ids", request.stop_ids.size(), kMostStopIds));
  RETURN_IF_ERROR(IdsInVocabulary("stop_ids", request.stop_ids, limits.vocab_size));
  if (request.max_tokens <= 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("max_tokens is ", request.max_tokens, ": must be at least 1"));
  }
  if (request.min_tokens < 0 || request.min_tokens > request.max_tokens) {
    return absl::InvalidArgumentError(absl::StrCat("min_tokens is ", request.min_tokens,
                                                   ": must be in [0, ", request.max_tokens,
                                                   "], max_tokens"));
  }
  if (!(request.tenant_weight > 0) || !std::isfinite(request.tenant_weight)) {
    return absl::InvalidArgumentError(
        absl::StrCat("tenant_weight is ", request.tenant_weight, ": must be a positive number"));
  }
  return ValidateSampling(request.sampling, limits.vocab_size);
}

}  // namespace conclave::engine

#include "services/engine/engine_messages.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"
#include "shared/rpc/qos_class.h"

namespace conclave::engine {
namespace {

// Longer deadlines count as this, so that sums of times cannot overflow.
constexpr int64_t kMostRemainingMs = int64_t{30} * 24 * 3600 * 1000;

absl::StatusOr<SamplingRequest> ReadSampling(const v1::EngineSampling& message) {
  if (message.bias_ids_size() != message.bias_values_size()) {
    return absl::InvalidArgumentError(absl::StrCat("sampling has ", message.bias_ids_size(),
                                                   " bias_ids and ", message.bias_values_size(),
                                                   " bias_values: one value an id is needed"));
  }
  SamplingRequest sampling;
  sampling.temperature = message.temperature();
  sampling.top_p = message.top_p();
  sampling.top_k = message.top_k();
  sampling.min_p = message.min_p();
  sampling.repetition_penalty = message.repetition_penalty();
  sampling.presence_penalty = message.presence_penalty();
  sampling.frequency_penalty = message.frequency_penalty();
  for (int i = 0; i < message.bias_ids_size(); ++i) {
    sampling.logit_bias.emplace_back(message.bias_ids(i), message.bias_values(i));
  }
  if (message.has_top_logprobs()) sampling.top_logprobs = message.top_logprobs();
  sampling.pace = message.pace();
  return sampling;
}

v1::FinishReason WireReason(EndReason reason) {
  switch (reason) {
    case EndReason::kStop:
      return v1::FINISH_REASON_STOP;
    case EndReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case EndReason::kCancelled:
      break;
  }
  return v1::FINISH_REASON_CANCELLED;
}

void WriteTokens(uint64_t sequence_id, const TokensEvent& tokens, v1::SequenceTokens* message) {
  message->set_sequence_id(sequence_id);
  message->set_token_index(tokens.token_index);
  message->mutable_ids()->Add(tokens.ids.begin(), tokens.ids.end());
  for (const ChosenLogprobs& logprobs : tokens.logprobs) {
    v1::EngineLogprobs* one = message->add_logprobs();
    one->set_chosen(logprobs.chosen);
    for (const kernels::TokenLogprob& top : logprobs.top) {
      one->add_top_ids(top.id);
      one->add_top_values(top.logprob);
    }
  }
}

void WriteFinished(uint64_t sequence_id, const FinishedEvent& finished,
                   v1::SequenceFinished* message) {
  message->set_sequence_id(sequence_id);
  message->set_reason(WireReason(finished.reason));
  if (finished.stop_id.has_value()) message->set_stop_id(*finished.stop_id);
  message->set_cached_tokens(finished.cached_tokens);
  message->set_engine_us(finished.engine_us);
  message->set_expert_us(finished.expert_us);
  message->set_kv_byte_seconds(finished.kv_byte_seconds);
}

}  // namespace

absl::StatusOr<SequenceRequest> ReadStart(const v1::StartSequence& start, uint64_t stream,
                                          TimePoint arrived, std::string_view fingerprint,
                                          const SequenceLimits& limits) {
  if (start.fingerprint() != fingerprint) {
    return absl::FailedPreconditionError(absl::StrCat(
        "the request is for fingerprint \"", start.fingerprint(), "\" and this engine serves \"",
        absl::string_view(fingerprint.data(), fingerprint.size()), "\""));
  }
  if (start.choice_index() < 0) {
    return absl::InvalidArgumentError(
        absl::StrCat("choice_index is ", start.choice_index(), ": must not be negative"));
  }
  if (start.remaining_ms() < 0) {
    return absl::DeadlineExceededError(
        absl::StrCat("remaining_ms is ", start.remaining_ms(), ": the deadline has passed"));
  }
  SequenceRequest request;
  request.key = {stream, start.sequence_id()};
  request.prompt_ids.assign(start.prompt_ids().begin(), start.prompt_ids().end());
  request.generated_ids.assign(start.generated_ids().begin(), start.generated_ids().end());
  request.seed = start.seed();
  request.choice_index = static_cast<uint32_t>(start.choice_index());
  ASSIGN_OR_RETURN(request.sampling, ReadSampling(start.sampling()));
  request.max_tokens = start.max_tokens();
  request.min_tokens = start.min_tokens();
  request.stop_ids.assign(start.stop_ids().begin(), start.stop_ids().end());
  ASSIGN_OR_RETURN(request.qos, rpc::FromProto(start.qos()));
  request.tenant_weight =
      start.tenant_weight() == 0 ? 1.0f : static_cast<float>(start.tenant_weight());
  if (start.remaining_ms() > 0) {
    request.remaining = std::chrono::milliseconds(std::min(start.remaining_ms(), kMostRemainingMs));
  }
  request.arrived = arrived;
  request.traceparent = start.traceparent();
  request.request_id = start.request_id();
  request.tenant_salt = start.tenant_salt();
  RETURN_IF_ERROR(ValidateSequenceRequest(request, limits));
  return request;
}

void WriteEvent(const SequenceEvent& event, v1::EngineEvent* message) {
  if (const auto* tokens = std::get_if<TokensEvent>(&event.what)) {
    WriteTokens(event.sequence_id, *tokens, message->mutable_tokens());
  } else if (const auto* finished = std::get_if<FinishedEvent>(&event.what)) {
    WriteFinished(event.sequence_id, *finished, message->mutable_finished());
  } else {
    WriteFailure(event.sequence_id, std::get<FailedEvent>(event.what).status, message);
  }
}

void WriteFailure(uint64_t sequence_id, const absl::Status& status, v1::EngineEvent* message) {
  v1::SequenceFailed* failed = message->mutable_failed();
  failed->set_sequence_id(sequence_id);
  failed->set_code(static_cast<int>(status.code()));
  failed->set_message(std::string(status.message()));
}

}  // namespace conclave::engine

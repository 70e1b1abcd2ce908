#include "services/gateway/engine_messages.h"

#include <algorithm>
#include <utility>

#include "shared/rpc/qos_class.h"

namespace conclave::gateway {

namespace {

FinishReason FromProto(v1::FinishReason reason) {
  switch (reason) {
    case v1::FINISH_REASON_LENGTH:
      return FinishReason::kLength;
    case v1::FINISH_REASON_CANCELLED:
      return FinishReason::kCancelled;
    default:
      return FinishReason::kStop;
  }
}

SequenceTokens FromProto(const v1::SequenceTokens& message) {
  SequenceTokens tokens{.token_index = message.token_index(),
                        .ids = {message.ids().begin(), message.ids().end()},
                        .logprobs = {}};
  for (const v1::EngineLogprobs& position : message.logprobs()) {
    PositionLogprobs logprobs{.chosen = position.chosen(), .top = {}};
    const int count = std::min(position.top_ids_size(), position.top_values_size());
    for (int i = 0; i < count; ++i)
      logprobs.top.emplace_back(position.top_ids(i), position.top_values(i));
    tokens.logprobs.push_back(std::move(logprobs));
  }
  return tokens;
}

}  // namespace

v1::FinishReason ToProto(FinishReason reason) {
  switch (reason) {
    case FinishReason::kStop:
      return v1::FINISH_REASON_STOP;
    case FinishReason::kLength:
      return v1::FINISH_REASON_LENGTH;
    case FinishReason::kCancelled:
      return v1::FINISH_REASON_CANCELLED;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void ToProto(const SequenceStart& start, v1::StartSequence* message) {
  message->set_sequence_id(start.sequence_id);
  message->mutable_prompt_ids()->Assign(start.prompt_ids.begin(), start.prompt_ids.end());
  message->mutable_generated_ids()->Assign(start.generated_ids.begin(), start.generated_ids.end());
  message->set_fingerprint(start.fingerprint);
  message->set_seed(start.seed);
  message->set_choice_index(start.choice_index);
  v1::EngineSampling* const sampling = message->mutable_sampling();
  sampling->set_temperature(start.sampling.temperature);
  sampling->set_top_p(start.sampling.top_p);
  sampling->set_top_k(start.sampling.top_k);
  sampling->set_min_p(start.sampling.min_p);
  sampling->set_repetition_penalty(start.sampling.repetition_penalty);
  sampling->set_presence_penalty(start.sampling.presence_penalty);
  sampling->set_frequency_penalty(start.sampling.frequency_penalty);
  for (const auto& [id, bias] : start.sampling.logit_bias) {
    sampling->add_bias_ids(id);
    sampling->add_bias_values(bias);
  }
  if (start.sampling.top_logprobs) sampling->set_top_logprobs(*start.sampling.top_logprobs);
  sampling->set_pace(start.sampling.pace);
  message->set_max_tokens(start.max_tokens);
  message->set_min_tokens(start.min_tokens);
  message->mutable_stop_ids()->Assign(start.stop_ids.begin(), start.stop_ids.end());
  message->set_qos(rpc::ToProto(start.qos));
  message->set_tenant_weight(start.tenant_weight);
  message->set_tenant_salt(start.tenant_salt);
  message->set_remaining_ms(start.remaining_ms);
  message->set_traceparent(start.traceparent);
  message->set_request_id(start.request_id);
}

EngineIdentity FromProto(const v1::EngineHello& hello) {
  return {.fingerprint = hello.fingerprint(),
          .served_name = hello.served_name(),
          .numerics_class = hello.numerics_class(),
          .system_fingerprint = hello.system_fingerprint(),
          .context_tokens = hello.context_tokens(),
          .vocab_size = hello.vocab_size(),
          .max_running = hello.max_running(),
          .kv_tokens = hello.kv_tokens(),
          .prefix_cache = hello.prefix_cache()};
}

std::vector<SequenceEvent> FromProto(const v1::EngineEvents& events) {
  std::vector<SequenceEvent> result;
  for (const v1::EngineEvent& event : events.events()) {
    switch (event.event_case()) {
      case v1::EngineEvent::kTokens:
        result.push_back({event.tokens().sequence_id(), FromProto(event.tokens())});
        break;
      case v1::EngineEvent::kFinished: {
        const v1::SequenceFinished& finished = event.finished();
        result.push_back(
            {finished.sequence_id(),
             SequenceFinished{.reason = FromProto(finished.reason()),
                              .stop_id = finished.has_stop_id()
                                             ? std::optional<int32_t>(finished.stop_id())
                                             : std::nullopt,
                              .cached_tokens = finished.cached_tokens(),
                              .engine_us = finished.engine_us(),
                              .expert_us = finished.expert_us(),
                              .kv_byte_seconds = finished.kv_byte_seconds()}});
        break;
      }
      case v1::EngineEvent::kFailed: {
        const v1::SequenceFailed& failed = event.failed();
        // A failure must not look like success, whatever code came.
        const bool known = failed.code() >= 1 && failed.code() <= 16;
        result.push_back(
            {failed.sequence_id(),
             SequenceFailed{absl::Status(known ? static_cast<absl::StatusCode>(failed.code())
                                               : absl::StatusCode::kUnknown,
                                         failed.message()),
                            failed.refused()}});
        break;
      }
      case v1::EngineEvent::kHello:
      case v1::EngineEvent::kReach:
      case v1::EngineEvent::kLeaving:
      case v1::EngineEvent::EVENT_NOT_SET:
        break;
    }
  }
  return result;
}

}  // namespace conclave::gateway

#include "services/gateway/grpc_messages.h"

#include <nlohmann/json.hpp>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/gateway/chat_messages.h"
#include "services/gateway/engine_messages.h"
#include "shared/base/status_macros.h"
#include "shared/rpc/qos_class.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

template <typename T, typename U>
void CopyIf(bool has, U value, std::optional<T>* target) {
  if (has) *target = static_cast<T>(value);
}

absl::StatusOr<CacheMode> FromProto(v1::CacheMode mode) {
  switch (mode) {
    case v1::CACHE_MODE_UNSPECIFIED:
      return CacheMode::kAuto;
    case v1::CACHE_MODE_USE:
      return CacheMode::kUse;
    case v1::CACHE_MODE_REFRESH:
      return CacheMode::kRefresh;
    case v1::CACHE_MODE_OFF:
      return CacheMode::kOff;
    default:
      return rpc::InvalidField("cache", absl::StrCat("expected a CacheMode from 0 to ",
                                                     static_cast<int>(v1::CacheMode_MAX),
                                                     ", found ", static_cast<int>(mode)));
  }
}

v1::CacheStatus ToProto(CacheStatus status) {
  switch (status) {
    case CacheStatus::kNone:
      return v1::CACHE_STATUS_UNSPECIFIED;
    case CacheStatus::kMiss:
      return v1::CACHE_STATUS_MISS;
    case CacheStatus::kHit:
      return v1::CACHE_STATUS_HIT;
    case CacheStatus::kJoined:
      return v1::CACHE_STATUS_JOINED;
  }
  return v1::CACHE_STATUS_UNSPECIFIED;
}

SamplingInput FromProto(const v1::SamplingParameters& message) {
  SamplingInput sampling;
  CopyIf(message.has_temperature(), message.temperature(), &sampling.temperature);
  CopyIf(message.has_top_p(), message.top_p(), &sampling.top_p);
  CopyIf(message.has_top_k(), message.top_k(), &sampling.top_k);
  CopyIf(message.has_min_p(), message.min_p(), &sampling.min_p);
  CopyIf(message.has_repetition_penalty(), message.repetition_penalty(),
         &sampling.repetition_penalty);
  CopyIf(message.has_presence_penalty(), message.presence_penalty(), &sampling.presence_penalty);
  CopyIf(message.has_frequency_penalty(), message.frequency_penalty(), &sampling.frequency_penalty);
  for (const auto& [id, bias] : message.logit_bias()) sampling.logit_bias.emplace_back(id, bias);
  CopyIf(message.has_seed(), message.seed(), &sampling.seed);
  CopyIf(message.has_max_tokens(), message.max_tokens(), &sampling.max_tokens);
  CopyIf(message.has_min_tokens(), message.min_tokens(), &sampling.min_tokens);
  sampling.stop.assign(message.stop().begin(), message.stop().end());
  sampling.stop_ids.assign(message.stop_ids().begin(), message.stop_ids().end());
  sampling.ignore_eos = message.ignore_eos();
  CopyIf(message.has_top_logprobs(), message.top_logprobs(), &sampling.top_logprobs);
  CopyIf(message.has_pace(), message.pace(), &sampling.pace);
  CopyIf(message.has_num_choices(), message.num_choices(), &sampling.num_choices);
  return sampling;
}

void SetLogprob(int32_t id, float logprob, const text::Tokenizer& tokenizer,
                v1::TokenLogprob* message) {
  message->set_id(id);
  message->set_logprob(logprob);
  absl::StatusOr<std::string> bytes =
      tokenizer.TokenBytes(id);  // none for padding rows of the embedding
  if (bytes.ok()) message->set_token(*std::move(bytes));
}

}  // namespace

FieldNames GrpcFieldNames() {
  FieldNames names;
  names.prefix = "sampling.";
  return names;
}

absl::StatusOr<ChatPromptInput> FromProto(const v1::ChatPrompt& chat) {
  std::vector<ChatMessage> messages;
  for (const v1::ChatMessage& message : chat.messages()) {
    messages.push_back({.role = message.role(), .content = message.content(), .name = ""});
  }
  ChatPromptInput prompt;
  ASSIGN_OR_RETURN(prompt.messages_json, ChatMessagesJson(messages, "chat.messages"));
  prompt.add_generation_prompt = !chat.without_generation_prompt();
  if (!chat.template_kwargs_json().empty()) {
    RETURN_IF_ERROR(
        CheckTemplateArguments(chat.template_kwargs_json(), "chat.template_kwargs_json"));
    prompt.variables_json = chat.template_kwargs_json();
  }
  return prompt;
}

absl::StatusOr<GenerationInput> FromProto(const v1::GenerateRequest& request) {
  GenerationInput input;
  input.api = "grpc";
  input.request_id = request.request_id();
  input.model = request.model();
  switch (request.prompt_case()) {
    case v1::GenerateRequest::kText:
      input.prompt = TextPromptInput{.text = request.text()};
      break;
    case v1::GenerateRequest::kChat: {
      ASSIGN_OR_RETURN(input.prompt, FromProto(request.chat()));
      break;
    }
    case v1::GenerateRequest::kTokens:
      input.prompt =
          TokenPromptInput{.ids = {request.tokens().ids().begin(), request.tokens().ids().end()}};
      break;
    case v1::GenerateRequest::PROMPT_NOT_SET:
      return rpc::InvalidField("prompt", "is missing: set one of text, chat, tokens");
  }
  input.sampling = FromProto(request.sampling());
  if (request.qos() != v1::QOS_CLASS_UNSPECIFIED) {
    ASSIGN_OR_RETURN(input.qos, rpc::FromProto(request.qos()));
  }
  ASSIGN_OR_RETURN(input.cache, FromProto(request.cache()));
  return input;
}

void ToProto(const Started& started, v1::Started* message) {
  message->set_request_id(started.request_id);
  message->set_seed(started.seed);
  message->set_resume_token(started.resume_token);
  message->set_model(started.model);
  message->set_fingerprint(started.system_fingerprint);
  message->set_prompt_tokens(static_cast<int64_t>(started.prompt_ids.size()));
  message->mutable_prompt_ids()->Assign(started.prompt_ids.begin(), started.prompt_ids.end());
  message->set_cache(ToProto(started.cache));
}

void ToProto(const ChoiceTokens& tokens, const text::Tokenizer& tokenizer,
             v1::TokensGenerated* message) {
  message->set_choice_index(tokens.choice_index);
  message->set_token_index(tokens.token_index);
  message->mutable_ids()->Assign(tokens.ids.begin(), tokens.ids.end());
  message->set_text(tokens.text);
  for (size_t i = 0; i < tokens.logprobs.size(); ++i) {
    v1::PositionLogprobs* const position = message->add_logprobs();
    SetLogprob(tokens.ids[i], tokens.logprobs[i].chosen, tokenizer, position->mutable_chosen());
    for (const auto& [id, logprob] : tokens.logprobs[i].top) {
      SetLogprob(id, logprob, tokenizer, position->add_top());
    }
  }
}

void ToProto(const ChoiceFinished& finished, v1::ChoiceFinished* message) {
  message->set_choice_index(finished.choice_index);
  message->set_reason(ToProto(finished.reason));
  message->set_stop(finished.stop);
  message->set_text(finished.text);
  message->mutable_ids()->Assign(finished.ids.begin(), finished.ids.end());
}

void ToProto(const Usage& usage, v1::Usage* message) {
  message->set_prompt_tokens(usage.prompt_tokens);
  message->set_completion_tokens(usage.completion_tokens);
  message->set_cached_tokens(usage.cached_tokens);
  message->set_engine_us(usage.engine_us);
  message->set_expert_us(usage.expert_us);
  message->set_kv_byte_seconds(usage.kv_byte_seconds);
}

}  // namespace conclave::gateway

#include "services/gateway/openai_request.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "services/gateway/chat_messages.h"
#include "services/gateway/excerpt.h"
#include "services/gateway/json_fields.h"
#include "shared/base/status_macros.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

using nlohmann::json;
using rpc::InvalidField;

absl::StatusOr<std::string> ParseContent(const json& message, const std::string& field) {
  const auto content = message.find("content");
  if (content == message.end() || content->is_null()) {
    return InvalidField(field, "is missing: a string or an array of text parts");
  }
  if (content->is_string()) return content->get<std::string>();
  if (!content->is_array()) {
    return InvalidField(field, absl::StrCat("expected a string or an array of text parts, found ",
                                            JsonTypeName(*content)));
  }
  std::string text;
  for (size_t i = 0; i < content->size(); ++i) {
    const json& part = (*content)[i];
    const std::string part_field = absl::StrCat(field, "[", i, "]");
    if (!part.is_object())
      return InvalidField(part_field,
                          absl::StrCat("expected an object, found ", JsonTypeName(part)));
    std::string type;
    RETURN_IF_ERROR(ReadField(part, "type", &type));
    const json* const value = FindField(part, "text");
    if (type != "text" || !value || !value->is_string()) {
      return InvalidField(part_field,
                          "only parts {\"type\": \"text\", \"text\": \"...\"} are served");
    }
    if (i > 0) text += '\n';
    text += value->get<std::string>();
  }
  return text;
}

absl::Status ParseStops(const json& body, std::vector<std::string>* stops) {
  const json* const field = FindField(body, "stop");
  if (!field) return absl::OkStatus();
  if (field->is_string()) {
    stops->push_back(field->get<std::string>());
    return absl::OkStatus();
  }
  if (!field->is_array()) {
    return InvalidField("stop", absl::StrCat("expected a string or an array of strings, found ",
                                             JsonTypeName(*field)));
  }
  for (const json& stop : *field) {
    if (!stop.is_string()) {
      return InvalidField(
          "stop", absl::StrCat("expected strings in the array, found ", JsonTypeName(stop)));
    }
    stops->push_back(stop.get<std::string>());
  }
  return absl::OkStatus();
}

absl::Status ParseLogitBias(const json& body, SamplingInput* sampling) {
  const json* const field = FindField(body, "logit_bias");
  if (!field) return absl::OkStatus();
  if (!field->is_object()) {
    return InvalidField("logit_bias", absl::StrCat("expected an object of token ids, found ",
                                                   JsonTypeName(*field)));
  }
  for (const auto& [key, bias] : field->items()) {
    int64_t id = 0;
    if (!absl::SimpleAtoi(key, &id) || !bias.is_number()) {
      return InvalidField("logit_bias",
                          absl::StrCat("expected {\"token id\": number}, found key \"",
                                       key.substr(0, 50), "\" with ", JsonTypeName(bias)));
    }
    sampling->logit_bias.emplace_back(id, bias.get<double>());
  }
  return absl::OkStatus();
}

absl::Status ParseSeed(const json& body, SamplingInput* sampling) {
  const json* const field = FindField(body, "seed");
  if (!field) return absl::OkStatus();
  if (field->is_number_unsigned()) {
    sampling->seed = field->get<uint64_t>();
    return absl::OkStatus();
  }
  const std::optional<int64_t> seed = AsInteger(*field);
  if (!seed)
    return InvalidField("seed", absl::StrCat("expected an integer of at most 64 bits, found ",
                                             JsonTypeName(*field)));
  sampling->seed = static_cast<uint64_t>(*seed);
  return absl::OkStatus();
}

absl::Status ParseLogprobs(const json& body, OpenAiRequest* request) {
  SamplingInput& sampling = request->sampling;
  if (request->endpoint == Endpoint::kCompletions) {
    RETURN_IF_ERROR(ReadField(body, "logprobs", &sampling.top_logprobs));
    request->logprobs = sampling.top_logprobs.has_value();
    if (request->logprobs &&
        (*sampling.top_logprobs < 0 || *sampling.top_logprobs > kMaxCompletionLogprobs)) {
      return InvalidField("logprobs",
                          absl::StrCat("expected an integer from 0 to ", kMaxCompletionLogprobs,
                                       ", found ", *sampling.top_logprobs));
    }
    return absl::OkStatus();
  }
  RETURN_IF_ERROR(ReadField(body, "logprobs", &request->logprobs));
  RETURN_IF_ERROR(ReadField(body, "top_logprobs", &sampling.top_logprobs));
  if (sampling.top_logprobs && !request->logprobs) {
    return InvalidField("top_logprobs", "needs logprobs: true");
  }
  if (request->logprobs && !sampling.top_logprobs) sampling.top_logprobs = 0;
  return absl::OkStatus();
}

absl::Status ParseSampling(const json& body, OpenAiRequest* request) {
  SamplingInput& sampling = request->sampling;
  RETURN_IF_ERROR(ReadField(body, "temperature", &sampling.temperature));
  RETURN_IF_ERROR(ReadField(body, "top_p", &sampling.top_p));
  RETURN_IF_ERROR(ReadField(body, "min_p", &sampling.min_p));
  RETURN_IF_ERROR(ReadField(body, "repetition_penalty", &sampling.repetition_penalty));
  RETURN_IF_ERROR(ReadField(body, "presence_penalty", &sampling.presence_penalty));
  RETURN_IF_ERROR(ReadField(body, "frequency_penalty", &sampling.frequency_penalty));
  RETURN_IF_ERROR(ReadField(body, "pace", &sampling.pace));
  RETURN_IF_ERROR(ReadField(body, "top_k", &sampling.top_k));
  if (sampling.top_k == -1) sampling.top_k = 0;  // "off" in vLLM's spelling
  RETURN_IF_ERROR(ReadField(body, "n", &sampling.num_choices));
  RETURN_IF_ERROR(ReadField(body, "max_tokens", &sampling.max_tokens));
  if (request->endpoint == Endpoint::kChat) {
    RETURN_IF_ERROR(ReadField(body, "max_completion_tokens", &sampling.max_tokens));
    if (FindField(body, "max_completion_tokens")) {
      request->field_names.max_tokens = "max_completion_tokens";
    }
  }
  RETURN_IF_ERROR(ReadField(body, "min_tokens", &sampling.min_tokens));
  RETURN_IF_ERROR(ReadField(body, "ignore_eos", &sampling.ignore_eos));
  RETURN_IF_ERROR(ParseStops(body, &sampling.stop));
  if (const json* const ids = FindField(body, "stop_token_ids")) {
    ASSIGN_OR_RETURN(const std::vector<int32_t> parsed, ParseIds(*ids, "stop_token_ids"));
    sampling.stop_ids.assign(parsed.begin(), parsed.end());
  }
  RETURN_IF_ERROR(ParseLogitBias(body, &sampling));
  RETURN_IF_ERROR(ParseSeed(body, &sampling));
  return ParseLogprobs(body, request);
}

absl::Status ParseQos(const json& body, std::optional<QosClass>* qos) {
  std::string name;
  if (!FindField(body, "qos")) return absl::OkStatus();
  RETURN_IF_ERROR(ReadField(body, "qos", &name));
  const std::optional<QosClass> known = QosClassOf(name);
  if (!known) {
    return InvalidField("qos", absl::StrCat("expected realtime, interactive, batch or sheddable, "
                                            "found \"",
                                            Excerpt(name, 100), "\""));
  }
  *qos = *known;
  return absl::OkStatus();
}

absl::Status ParseCache(const json& body, CacheMode* mode) {
  std::string name;
  if (!FindField(body, "cache")) return absl::OkStatus();
  RETURN_IF_ERROR(ReadField(body, "cache", &name));
  if (name == "use") {
    *mode = CacheMode::kUse;
  } else if (name == "refresh") {
    *mode = CacheMode::kRefresh;
  } else if (name == "off") {
    *mode = CacheMode::kOff;
  } else {
    return InvalidField(
        "cache", absl::StrCat("expected use, refresh or off, found \"", Excerpt(name, 100), "\""));
  }
  return absl::OkStatus();
}

absl::Status ParseStream(const json& body, OpenAiRequest* request) {
  RETURN_IF_ERROR(ReadField(body, "stream", &request->stream));
  RETURN_IF_ERROR(ReadField(body, "return_token_ids", &request->return_token_ids));
  const json* const options = FindField(body, "stream_options");
  if (!options) return absl::OkStatus();
  if (!options->is_object()) {
    return InvalidField("stream_options",
                        absl::StrCat("expected an object, found ", JsonTypeName(*options)));
  }
  if (!request->stream) return InvalidField("stream_options", "needs stream: true");
  return ReadField(*options, "include_usage", &request->include_usage, "stream_options.");
}

absl::Status ParsePrompts(const json& body, OpenAiRequest* request) {
  const json* const field = FindField(body, "prompt");
  if (!field)
    return InvalidField("prompt",
                        "is missing: a string, an array of strings, ids, or an array of ids");
  bool add_special_tokens = true;
  RETURN_IF_ERROR(ReadField(body, "add_special_tokens", &add_special_tokens));
  const auto add_text = [&](const json& text) {
    request->prompts.push_back(
        TextPromptInput{.text = text.get<std::string>(), .add_special_tokens = add_special_tokens});
  };
  const auto wrong = [] {
    return InvalidField("prompt",
                        "expected a string, an array of strings, ids, or an array of ids");
  };
  if (field->is_string()) {
    add_text(*field);
    return absl::OkStatus();
  }
  if (!field->is_array()) return wrong();
  if (field->empty()) return InvalidField("prompt", "is empty: give at least one token");
  if (field->front().is_number()) {
    ASSIGN_OR_RETURN(std::vector<int32_t> ids, ParseIds(*field, "prompt"));
    request->prompts.push_back(TokenPromptInput{.ids = std::move(ids)});
    return absl::OkStatus();
  }
  if (field->size() > static_cast<size_t>(kMaxChoices)) {
    return InvalidField("prompt", absl::StrCat("expected at most ", kMaxChoices, " prompts, found ",
                                               field->size()));
  }
  for (const json& prompt : *field) {
    if (prompt.is_string() && field->front().is_string()) {
      add_text(prompt);
    } else if (prompt.is_array() && field->front().is_array()) {
      ASSIGN_OR_RETURN(std::vector<int32_t> ids, ParseIds(prompt, "prompt"));
      request->prompts.push_back(TokenPromptInput{.ids = std::move(ids)});
    } else {
      return wrong();
    }
  }
  return absl::OkStatus();
}

// How OpenAI's clients call the fields.
FieldNames OpenAiFieldNames(Endpoint endpoint) {
  FieldNames names;
  names.num_choices = "n";
  names.stop_ids = "stop_token_ids";
  names.top_logprobs = endpoint == Endpoint::kChat ? "top_logprobs" : "logprobs";
  names.prompt = endpoint == Endpoint::kChat ? "messages" : "prompt";
  names.request_id = "x-request-id";
  return names;
}

}  // namespace

absl::StatusOr<std::vector<int32_t>> ParseIds(const json& array, const std::string& field) {
  if (!array.is_array())
    return InvalidField(field,
                        absl::StrCat("expected an array of ids, found ", JsonTypeName(array)));
  std::vector<int32_t> ids;
  ids.reserve(array.size());
  for (const json& value : array) {
    const std::optional<int64_t> id = AsInteger(value);
    if (!id || *id < 0 || *id > INT32_MAX) {
      return InvalidField(field, absl::StrCat("expected ids, found ", JsonTypeName(value)));
    }
    ids.push_back(static_cast<int32_t>(*id));
  }
  return ids;
}

absl::StatusOr<ChatPromptInput> ParseChatPrompt(const json& body) {
  const json* const field = FindField(body, "messages");
  if (!field) return InvalidField("messages", "is missing: an array of {role, content}");
  if (!field->is_array())
    return InvalidField("messages",
                        absl::StrCat("expected an array, found ", JsonTypeName(*field)));
  std::vector<ChatMessage> messages;
  for (size_t i = 0; i < field->size(); ++i) {
    const std::string name = absl::StrCat("messages[", i, "]");
    const json& message = (*field)[i];
    if (!message.is_object())
      return InvalidField(name, absl::StrCat("expected an object, found ", JsonTypeName(message)));
    for (const char* refused : {"tool_calls", "function_call", "audio"}) {
      if (FindField(message, refused))
        return InvalidField(absl::StrCat(name, ".", refused), "is not served");
    }
    ChatMessage parsed;
    for (const auto& [member, target] :
         {std::pair{"role", &parsed.role}, std::pair{"name", &parsed.name}}) {
      const json* const value = FindField(message, member);
      if (!value) continue;
      if (!value->is_string()) {
        return InvalidField(absl::StrCat(name, ".", member),
                            absl::StrCat("expected a string, found ", JsonTypeName(*value)));
      }
      *target = value->get<std::string>();
    }
    if (parsed.role.empty()) return InvalidField(absl::StrCat(name, ".role"), "is missing");
    ASSIGN_OR_RETURN(parsed.content, ParseContent(message, absl::StrCat(name, ".content")));
    messages.push_back(std::move(parsed));
  }
  ChatPromptInput prompt;
  ASSIGN_OR_RETURN(prompt.messages_json, ChatMessagesJson(messages, "messages"));
  RETURN_IF_ERROR(ReadField(body, "add_generation_prompt", &prompt.add_generation_prompt));
  if (const json* const arguments = FindField(body, "chat_template_kwargs")) {
    if (!arguments->is_object()) {
      return InvalidField("chat_template_kwargs",
                          absl::StrCat("expected an object, found ", JsonTypeName(*arguments)));
    }
    RETURN_IF_ERROR(CheckTemplateNames(*arguments, "chat_template_kwargs"));
    prompt.variables_json = arguments->dump();
  }
  return prompt;
}

absl::StatusOr<OpenAiRequest> ParseOpenAiRequest(const json& body, Endpoint endpoint) {
  if (!body.is_object()) {
    return absl::InvalidArgumentError(
        absl::StrCat("the body must be a JSON object, found ", JsonTypeName(body)));
  }
  OpenAiRequest request;
  request.endpoint = endpoint;
  request.field_names = OpenAiFieldNames(endpoint);
  RETURN_IF_ERROR(CheckOpenAiFields(body, endpoint, &request.unknown_fields));
  RETURN_IF_ERROR(ReadField(body, "model", &request.model));
  RETURN_IF_ERROR(ParseQos(body, &request.qos));
  RETURN_IF_ERROR(ParseCache(body, &request.cache));
  RETURN_IF_ERROR(ParseStream(body, &request));
  RETURN_IF_ERROR(ParseSampling(body, &request));
  if (endpoint == Endpoint::kChat) {
    ASSIGN_OR_RETURN(ChatPromptInput prompt, ParseChatPrompt(body));
    request.prompts.push_back(std::move(prompt));
  } else {
    RETURN_IF_ERROR(ParsePrompts(body, &request));
  }
  return request;
}

}  // namespace conclave::gateway

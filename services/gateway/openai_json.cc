#include "services/gateway/openai_json.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

// OpenAI's value for a token that is next to impossible; JSON has no infinity.
constexpr float kLeastLogprob = -9999.0F;

double JsonLogprob(float logprob) { return std::max(logprob, kLeastLogprob); }

// Empty for an id that no token has.
std::string TokenBytes(const text::Tokenizer& tokenizer, int32_t id) {
  absl::StatusOr<std::string> bytes = tokenizer.TokenBytes(id);
  return bytes.ok() ? *std::move(bytes) : std::string();
}

OrderedJson ChatLogprob(const std::string& bytes, float logprob) {
  OrderedJson values = OrderedJson::array();
  for (const char c : bytes) values.push_back(static_cast<uint8_t>(c));
  return {{"token", bytes}, {"logprob", JsonLogprob(logprob)}, {"bytes", std::move(values)}};
}

int64_t CountCharacters(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (c & 0xC0) != 0x80; });
}

}  // namespace

std::string Dump(const OrderedJson& json) {
  return json.dump(-1, ' ', false, OrderedJson::error_handler_t::replace);
}

std::string SseEvent(int64_t event_id, const OrderedJson& data) {
  return absl::StrCat("id: ", event_id, "\ndata: ", Dump(data), "\n\n");
}

OrderedJson ChunkHead(const AnswerHead& head) {
  const bool chat = head.endpoint == Endpoint::kChat;
  return {{"id", head.id},
          {"object", chat ? "chat.completion.chunk" : "text_completion"},
          {"created", head.created},
          {"model", head.model},
          {"system_fingerprint", head.system_fingerprint},
          {"choices", OrderedJson::array()}};
}

OrderedJson UsageJson(const Usage& usage) {
  return {{"prompt_tokens", usage.prompt_tokens},
          {"completion_tokens", usage.completion_tokens},
          {"total_tokens", usage.prompt_tokens + usage.completion_tokens},
          {"prompt_tokens_details", {{"cached_tokens", usage.cached_tokens}}}};
}

OrderedJson RoleChoice(int32_t index) {
  return {{"index", index},
          {"delta", {{"role", "assistant"}, {"content", ""}}},
          {"logprobs", nullptr},
          {"finish_reason", nullptr}};
}

OrderedJson TextChoice(Endpoint endpoint, int32_t index, const std::string& text,
                       OrderedJson logprobs) {
  if (endpoint == Endpoint::kChat) {
    return {{"index", index},
            {"delta", {{"content", text}}},
            {"logprobs", std::move(logprobs)},
            {"finish_reason", nullptr}};
  }
  return {{"index", index},
          {"text", text},
          {"logprobs", std::move(logprobs)},
          {"finish_reason", nullptr}};
}

OrderedJson FinishChoice(Endpoint endpoint, int32_t index, FinishReason reason) {
  OrderedJson choice = TextChoice(endpoint, index, "", nullptr);
  if (endpoint == Endpoint::kChat) choice["delta"] = OrderedJson::object();
  choice["finish_reason"] = FinishReasonName(reason);
  return choice;
}

OrderedJson LogprobsJson(Endpoint endpoint, const ChoiceTokens& tokens,
                         const text::Tokenizer& tokenizer, int64_t* text_offset) {
  if (endpoint == Endpoint::kChat) {
    OrderedJson content = OrderedJson::array();
    for (size_t i = 0; i < tokens.logprobs.size(); ++i) {
      OrderedJson entry =
          ChatLogprob(TokenBytes(tokenizer, tokens.ids[i]), tokens.logprobs[i].chosen);
      OrderedJson top = OrderedJson::array();
      for (const auto& [id, logprob] : tokens.logprobs[i].top) {
        top.push_back(ChatLogprob(TokenBytes(tokenizer, id), logprob));
      }
      entry["top_logprobs"] = std::move(top);
      content.push_back(std::move(entry));
    }
    return {{"content", std::move(content)}, {"refusal", nullptr}};
  }
  OrderedJson names = OrderedJson::array();
  OrderedJson values = OrderedJson::array();
  OrderedJson tops = OrderedJson::array();
  OrderedJson offsets = OrderedJson::array();
  for (size_t i = 0; i < tokens.logprobs.size(); ++i) {
    const std::string bytes = TokenBytes(tokenizer, tokens.ids[i]);
    names.push_back(bytes);
    values.push_back(JsonLogprob(tokens.logprobs[i].chosen));
    OrderedJson top = OrderedJson::object();
    for (const auto& [id, logprob] : tokens.logprobs[i].top) {
      top[TokenBytes(tokenizer, id)] = JsonLogprob(logprob);
    }
    tops.push_back(std::move(top));
    offsets.push_back(*text_offset);
    *text_offset += CountCharacters(bytes);
  }
  return {{"tokens", std::move(names)},
          {"token_logprobs", std::move(values)},
          {"top_logprobs", std::move(tops)},
          {"text_offset", std::move(offsets)}};
}

void MergeLogprobs(Endpoint endpoint, const OrderedJson& more, OrderedJson* all) {
  if (all->is_null()) {
    *all = more;
    return;
  }
  const auto append = [&](const char* name) {
    OrderedJson& target = (*all)[name];
    for (const OrderedJson& value : more[name]) target.push_back(value);
  };
  if (endpoint == Endpoint::kChat) {
    append("content");
    return;
  }
  for (const char* name : {"tokens", "token_logprobs", "top_logprobs", "text_offset"}) append(name);
}

OrderedJson WholeChoiceJson(Endpoint endpoint, int32_t index, const WholeChoice& choice) {
  if (endpoint == Endpoint::kChat) {
    return {{"index", index},
            {"message", {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}}},
            {"logprobs", choice.logprobs},
            {"finish_reason", FinishReasonName(choice.reason)}};
  }
  return {{"index", index},
          {"text", choice.text},
          {"logprobs", choice.logprobs},
          {"finish_reason", FinishReasonName(choice.reason)}};
}

namespace {

http::Error ToHttpError(const absl::Status& status) {
  const rpc::HttpError error = rpc::ToHttp(status);
  // HTTP has a status for this one; gRPC has not.
  const bool media_type = error.code == "unsupported_media_type";
  return {.status = media_type ? 415 : error.http_status,
          .message = error.message,
          .type = error.type,
          .param = error.param,
          .code = error.code};
}

}  // namespace

http::Response FailureResponse(const absl::Status& status) {
  http::Response response = http::ErrorResponse(ToHttpError(status));
  const int64_t retry_after_s = rpc::ToHttp(status).retry_after_s;
  if (retry_after_s > 0) response.headers.emplace_back("Retry-After", absl::StrCat(retry_after_s));
  return response;
}

OrderedJson FailureJson(const absl::Status& status) {
  return OrderedJson::parse(http::ErrorBody(ToHttpError(status)));
}

}  // namespace conclave::gateway

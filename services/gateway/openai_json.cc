#include "services/gateway/openai_json.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/utf8.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

// OpenAI's value for a token that is next to impossible; JSON has no infinity.
constexpr float kLeastLogprob = -9999.0F;

constexpr char kCompletion[] = "text_completion";

std::string Beginning(const AnswerHead& head, const char* object) {
  std::string beginning;
  JsonWriter json(&beginning);
  json.BeginObject();
  json.Member("id", head.id);
  json.Member("object", object);
  json.Member("created", head.created);
  json.Member("model", head.model);
  json.Member("system_fingerprint", head.system_fingerprint);
  json.Name("choices");
  json.BeginArray();
  return beginning;
}

// Members of every choice. `logprobs`: JSON. `reason` null: it has not finished.
void WriteEnd(std::string_view logprobs, const char* reason, JsonWriter& json) {
  json.Name("logprobs");
  json.Raw(logprobs);
  json.Name("finish_reason");
  reason ? json.Value(reason) : json.Null();
}

double JsonLogprob(float logprob) { return std::max(logprob, kLeastLogprob); }

// Empty for an id that no token has.
std::string TokenBytes(const text::Tokenizer& tokenizer, int32_t id) {
  absl::StatusOr<std::string> bytes = tokenizer.TokenBytes(id);
  return bytes.ok() ? *std::move(bytes) : std::string();
}

// As OpenAI's completions name a token: one that is no text of its own by its bytes, for otherwise
// many would have one name.
std::string CompletionToken(const std::string& bytes) {
  if (!FirstInvalidUtf8(bytes)) return bytes;
  std::string name = "bytes:";
  for (const char c : bytes) {
    name += absl::StrCat("\\x", absl::Hex(static_cast<uint8_t>(c), absl::kZeroPad2));
  }
  return name;
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

std::string ChunkBeginning(const AnswerHead& head) {
  return Beginning(head, head.endpoint == Endpoint::kChat ? "chat.completion.chunk" : kCompletion);
}

std::string WholeBeginning(const AnswerHead& head) {
  return Beginning(head, head.endpoint == Endpoint::kChat ? "chat.completion" : kCompletion);
}

void WriteUsage(const Usage& usage, JsonWriter& json) {
  json.BeginObject();
  json.Member("prompt_tokens", usage.prompt_tokens);
  json.Member("completion_tokens", usage.completion_tokens);
  json.Member("total_tokens", usage.prompt_tokens + usage.completion_tokens);
  json.Name("prompt_tokens_details");
  json.BeginObject();
  json.Member("cached_tokens", usage.cached_tokens);
  json.EndObject();
  json.EndObject();
}

void WriteIds(std::string_view name, std::span<const int32_t> ids, JsonWriter& json) {
  json.Name(name);
  json.BeginArray();
  for (const int32_t id : ids) json.Value(id);
  json.EndArray();
}

void WriteRoleChoice(int32_t index, JsonWriter& json) {
  json.BeginObject();
  json.Member("index", index);
  json.Name("delta");
  json.Raw(R"({"role":"assistant","content":""})");
  WriteEnd("null", nullptr, json);
  json.EndObject();
}

void WriteTextChoice(Endpoint endpoint, int32_t index, const TextPiece& piece, JsonWriter& json) {
  json.BeginObject();
  json.Member("index", index);
  if (endpoint == Endpoint::kChat) {
    json.Name("delta");
    json.BeginObject();
    json.Member("content", piece.text);
    json.EndObject();
  } else {
    json.Member("text", piece.text);
  }
  WriteEnd(piece.logprobs, nullptr, json);
  if (piece.tokens) {
    json.Member("token_index", piece.tokens->token_index);
    WriteIds("token_ids", piece.tokens->ids, json);
  }
  json.EndObject();
}

void WriteFinishChoice(Endpoint endpoint, int32_t index, FinishReason reason, std::string_view stop,
                       JsonWriter& json) {
  json.BeginObject();
  json.Member("index", index);
  if (endpoint == Endpoint::kChat) {
    json.Name("delta");
    json.Raw("{}");
  } else {
    json.Member("text", "");
  }
  WriteEnd("null", FinishReasonName(reason), json);
  if (!stop.empty()) json.Member("stop_reason", stop);
  json.EndObject();
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
    names.push_back(CompletionToken(bytes));
    values.push_back(JsonLogprob(tokens.logprobs[i].chosen));
    OrderedJson top = OrderedJson::object();
    for (const auto& [id, logprob] : tokens.logprobs[i].top) {
      // Two tokens may have one text: the likelier one comes first and stays.
      top.emplace(CompletionToken(TokenBytes(tokenizer, id)), JsonLogprob(logprob));
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

void WriteWholeChoice(Endpoint endpoint, int32_t index, const WholeChoice& choice, bool with_ids,
                      JsonWriter& json) {
  json.BeginObject();
  json.Member("index", index);
  if (endpoint == Endpoint::kChat) {
    json.Name("message");
    json.BeginObject();
    json.Member("role", "assistant");
    json.Member("content", choice.text);
    json.Name("refusal");
    json.Null();
    json.EndObject();
  } else {
    json.Member("text", choice.text);
  }
  WriteEnd(choice.logprobs.is_null() ? "null" : Dump(choice.logprobs),
           FinishReasonName(choice.reason), json);
  if (with_ids) WriteIds("token_ids", choice.ids, json);
  json.EndObject();
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

std::string FailureBody(const absl::Status& status) { return http::ErrorBody(ToHttpError(status)); }

}  // namespace conclave::gateway

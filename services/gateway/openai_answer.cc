#include "services/gateway/openai_answer.h"

#include <chrono>
#include <utility>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"

namespace conclave::gateway {

class OpenAiAnswer::PromptSink final : public GenerationSink {
 public:
  PromptSink(std::shared_ptr<OpenAiAnswer> answer, int32_t first_choice)
      : answer_(std::move(answer)), first_choice_(first_choice) {}
  void OnStarted(const Started& started) override { answer_->OnStarted(started); }
  void OnTokens(const ChoiceTokens& tokens) override {
    answer_->OnTokens(first_choice_ + tokens.choice_index, tokens);
  }
  void OnFinished(const ChoiceFinished& finished) override {
    answer_->OnFinished(first_choice_ + finished.choice_index, finished);
  }
  void OnDone(const Usage& usage) override { answer_->OnDone(usage); }
  void OnFailed(const absl::Status& status) override { answer_->Fail(status); }

 private:
  const std::shared_ptr<OpenAiAnswer> answer_;
  const int32_t first_choice_;
};

OpenAiAnswer::OpenAiAnswer(Options options, std::shared_ptr<http::Exchange> exchange)
    : options_(std::move(options)), exchange_(std::move(exchange)) {
  MutexLock lock(mutex_);
  head_.endpoint = options_.endpoint;
  head_.id = absl::StrCat(options_.endpoint == Endpoint::kChat ? "chatcmpl-" : "cmpl-",
                          options_.request_id);
  head_.created = std::chrono::duration_cast<std::chrono::seconds>(
                      std::chrono::system_clock::now().time_since_epoch())
                      .count();
  choices_.resize(static_cast<size_t>(options_.num_prompts * options_.num_choices));
}

void OpenAiAnswer::Begin() {
  if (options_.stream) {
    exchange_->BeginStream({.content_type = "text/event-stream",
                            .headers = HeadersOf(CacheStatus::kNone),
                            .heartbeat = kSseHeartbeat,
                            .heartbeat_period = options_.heartbeat_period});
  }
  exchange_->OnClientGone([weak = weak_from_this()] {
    if (const auto self = weak.lock()) self->GiveUp();
  });
}

std::shared_ptr<GenerationSink> OpenAiAnswer::SinkOf(int32_t prompt) {
  return std::make_shared<PromptSink>(shared_from_this(), prompt * options_.num_choices);
}

void OpenAiAnswer::AddKey(uint64_t key) {
  if (key == 0) return;
  {
    MutexLock lock(mutex_);
    if (!over_) {
      keys_.push_back(key);
      return;
    }
  }
  options_.abandon(key);
}

void OpenAiAnswer::GiveUp() {
  std::vector<uint64_t> keys;
  {
    MutexLock lock(mutex_);
    over_ = true;
    keys.swap(keys_);
  }
  for (const uint64_t key : keys) options_.abandon(key);
}

void OpenAiAnswer::Fail(const absl::Status& status) {
  std::vector<uint64_t> keys;
  {
    MutexLock lock(mutex_);
    if (over_) return;
    over_ = true;
    keys.swap(keys_);
    if (exchange_->stream_begun()) {
      BeginEvent();
      event_ += FailureBody(status);
      SendEvent();
      exchange_->Write(kSseDone);
      exchange_->EndStream();
    } else {
      http::Response response = FailureResponse(status);
      for (auto& header : HeadersOf(CacheStatus::kNone)) {
        response.headers.push_back(std::move(header));
      }
      exchange_->Respond(std::move(response));
    }
  }
  for (const uint64_t key : keys)
    options_.abandon(key);  // the other prompts; unknown keys are ignored
}

void OpenAiAnswer::OnStarted(const Started& started) {
  MutexLock lock(mutex_);
  // Of several prompts, what the least cached one says.
  if (head_.model.empty() || cache_ == CacheStatus::kHit || started.cache == CacheStatus::kMiss) {
    cache_ = started.cache;
  }
  if (!head_.model.empty()) return;  // a further prompt of the same answer
  head_.model = started.model;
  head_.system_fingerprint = started.system_fingerprint;
  beginning_ = options_.stream ? ChunkBeginning(head_) : WholeBeginning(head_);
  seed_ = started.seed;
  resume_token_ = started.resume_token;
  prompt_ids_ = started.prompt_ids;
}

void OpenAiAnswer::OnTokens(int32_t index, const ChoiceTokens& tokens) {
  MutexLock lock(mutex_);
  if (over_) return;
  ChoiceState& choice = choices_[static_cast<size_t>(index)];
  OrderedJson logprobs = nullptr;
  if (options_.logprobs && !tokens.logprobs.empty()) {
    logprobs = LogprobsJson(options_.endpoint, tokens, *options_.tokenizer, &choice.text_offset);
  }
  if (!options_.stream) {
    choice.whole.text += tokens.text;
    if (!logprobs.is_null()) MergeLogprobs(options_.endpoint, logprobs, &choice.whole.logprobs);
    return;
  }
  SendRole(index);
  if (tokens.text.empty() && logprobs.is_null() && !options_.return_token_ids) return;
  const std::string logprobs_json = logprobs.is_null() ? "null" : Dump(logprobs);
  JsonWriter chunk = BeginChunk();
  WriteTextChoice(options_.endpoint, index,
                  {.text = tokens.text,
                   .logprobs = logprobs_json,
                   .tokens = options_.return_token_ids ? &tokens : nullptr},
                  chunk);
  SendChunk(chunk);
}

void OpenAiAnswer::OnFinished(int32_t index, const ChoiceFinished& finished) {
  MutexLock lock(mutex_);
  if (over_) return;
  ChoiceState& choice = choices_[static_cast<size_t>(index)];
  choice.finished = true;
  if (!options_.stream) {
    choice.whole.text += finished.text;
    choice.whole.reason = finished.reason;
    choice.whole.ids = finished.ids;
    return;
  }
  SendRole(index);
  if (!finished.text.empty()) {
    JsonWriter chunk = BeginChunk();
    WriteTextChoice(options_.endpoint, index, {.text = finished.text}, chunk);
    SendChunk(chunk);
  }
  JsonWriter chunk = BeginChunk();
  WriteFinishChoice(options_.endpoint, index, finished.reason, finished.stop, chunk);
  SendChunk(chunk);
}

void OpenAiAnswer::OnDone(const Usage& usage) {
  MutexLock lock(mutex_);
  if (over_) return;
  usage_.prompt_tokens += usage.prompt_tokens;
  usage_.completion_tokens += usage.completion_tokens;
  usage_.cached_tokens += usage.cached_tokens;
  if (++prompts_done_ == options_.num_prompts) Complete();
}

void OpenAiAnswer::Complete() {
  over_ = true;
  keys_.clear();
  if (options_.stream) {
    if (options_.include_usage) {
      JsonWriter chunk = BeginChunk();
      chunk.EndArray();
      chunk.Name("usage");
      WriteUsage(usage_, chunk);
      chunk.EndObject();
      SendEvent();
    }
    exchange_->Write(kSseDone);
    exchange_->EndStream();
    return;
  }
  std::string body = beginning_;
  JsonWriter json(&body);
  for (size_t i = 0; i < choices_.size(); ++i) {
    WriteWholeChoice(options_.endpoint, static_cast<int32_t>(i), choices_[i].whole,
                     options_.return_token_ids, json);
  }
  json.EndArray();
  json.Name("usage");
  WriteUsage(usage_, json);
  WriteOrigin(json);
  json.EndObject();
  exchange_->Respond({.status = 200,
                      .content_type = "application/json",
                      .body = std::move(body),
                      .headers = HeadersOf(cache_)});
}

http::Headers OpenAiAnswer::HeadersOf(CacheStatus cache) const {
  http::Headers headers = options_.headers;
  headers.emplace_back("x-request-id", options_.request_id);
  if (cache != CacheStatus::kNone) headers.emplace_back("x-cache", CacheStatusName(cache));
  return headers;
}

void OpenAiAnswer::WriteOrigin(JsonWriter& json) {
  json.Member("seed", seed_);
  json.Member("resume_token", absl::Base64Escape(resume_token_));
  if (options_.return_token_ids && options_.num_prompts == 1) {
    WriteIds("prompt_token_ids", prompt_ids_, json);
  }
}

void OpenAiAnswer::SendRole(int32_t index) {
  ChoiceState& choice = choices_[static_cast<size_t>(index)];
  if (choice.role_sent || options_.endpoint != Endpoint::kChat) return;
  choice.role_sent = true;
  JsonWriter chunk = BeginChunk();
  WriteRoleChoice(index, chunk);
  SendChunk(chunk);
}

JsonWriter OpenAiAnswer::BeginChunk() {
  BeginEvent();
  event_ += beginning_;
  return JsonWriter(&event_);
}

void OpenAiAnswer::SendChunk(JsonWriter& chunk) {
  chunk.EndArray();
  if (options_.include_usage) {
    chunk.Name("usage");
    chunk.Null();
  }
  if (!origin_sent_) {
    origin_sent_ = true;
    WriteOrigin(chunk);
  }
  chunk.EndObject();
  SendEvent();
}

void OpenAiAnswer::BeginEvent() {
  if (next_event_id_ == 0 && cache_ != CacheStatus::kNone) {
    exchange_->AddStreamHeader("x-cache", CacheStatusName(cache_));
  }
  event_ = absl::StrCat("id: ", next_event_id_++, "\ndata: ");
}

void OpenAiAnswer::SendEvent() {
  event_ += "\n\n";
  exchange_->Write(event_);  // of no effect once the client has gone
}

}  // namespace conclave::gateway

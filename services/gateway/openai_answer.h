// One HTTP answer of the OpenAI-compatible API being made, from the events of one request for each
// prompt.
//
// Shared by those requests' sinks (core thread), the handler that starts them (worker thread) and
// the connection (I/O thread): one mutex.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "services/gateway/generation_sink.h"
#include "services/gateway/openai_json.h"
#include "services/gateway/openai_request.h"
#include "shared/base/mutex.h"
#include "shared/http/exchange.h"
#include "shared/text/tokenizer.h"

namespace conclave::gateway {

class OpenAiAnswer : public std::enable_shared_from_this<OpenAiAnswer> {
 public:
  struct Options {
    Endpoint endpoint = Endpoint::kChat;
    bool stream = false;
    bool include_usage = false;
    bool return_token_ids = false;
    bool logprobs = false;
    int32_t num_prompts = 1;
    int32_t num_choices = 1;  // of each prompt
    std::string request_id;
    http::Headers headers = {};  // of every answer, besides x-request-id and x-cache
    Duration heartbeat_period = std::chrono::seconds(10);
    std::shared_ptr<const text::Tokenizer> tokenizer;
    // Gives up a running request by its key; any thread.
    std::function<void(uint64_t)> abandon;
  };
  OpenAiAnswer(Options options, std::shared_ptr<http::Exchange> exchange);

  // Announces a stream, and watches for the client to go. Before any request starts.
  void Begin();
  // Where the events of prompt `prompt` go; its choices are numbered from prompt * num_choices.
  std::shared_ptr<GenerationSink> SinkOf(int32_t prompt);
  // A request is running (0: it is over); given up at once if the answer is already over.
  void AddKey(uint64_t key) EXCLUDES(mutex_);
  // Ends the answer: a status of its own, or an event of the stream when that has begun.
  void Fail(const absl::Status& status) EXCLUDES(mutex_);

 private:
  class PromptSink;
  struct ChoiceState {
    bool role_sent = false;
    bool finished = false;
    int64_t text_offset = 0;
    WholeChoice whole;
  };

  void OnStarted(const Started& started) EXCLUDES(mutex_);
  void OnTokens(int32_t choice, const ChoiceTokens& tokens) EXCLUDES(mutex_);
  void OnFinished(int32_t choice, const ChoiceFinished& finished) EXCLUDES(mutex_);
  void OnDone(const Usage& usage) EXCLUDES(mutex_);

  http::Headers HeadersOf(CacheStatus cache) const;
  // Nobody waits for the answer any more.
  void GiveUp() EXCLUDES(mutex_);
  // Begins an event with a chunk, whose choices are to be written. The next event takes its place.
  JsonWriter BeginChunk() REQUIRES(mutex_);
  void SendChunk(JsonWriter& chunk) REQUIRES(mutex_);
  void BeginEvent() REQUIRES(mutex_);
  void SendEvent() REQUIRES(mutex_);
  void SendRole(int32_t choice) REQUIRES(mutex_);
  void Complete() REQUIRES(mutex_);
  // The extension members of the first chunk, or of a whole answer.
  void WriteOrigin(JsonWriter& json) REQUIRES(mutex_);

  const Options options_;
  const std::shared_ptr<http::Exchange> exchange_;
  Mutex mutex_;
  AnswerHead head_ GUARDED_BY(mutex_);
  std::string beginning_ GUARDED_BY(mutex_);  // of every chunk, or of the whole answer
  std::string event_ GUARDED_BY(mutex_);      // of a stream, while it is written
  uint64_t seed_ GUARDED_BY(mutex_) = 0;
  std::string resume_token_ GUARDED_BY(mutex_);
  SharedIds prompt_ids_ GUARDED_BY(mutex_);  // of the first prompt
  std::vector<ChoiceState> choices_ GUARDED_BY(mutex_);
  std::vector<uint64_t> keys_ GUARDED_BY(mutex_);
  Usage usage_ GUARDED_BY(mutex_);
  int32_t prompts_done_ GUARDED_BY(mutex_) = 0;
  int64_t next_event_id_ GUARDED_BY(mutex_) = 0;
  CacheStatus cache_ GUARDED_BY(mutex_) = CacheStatus::kNone;  // of all prompts together
  bool origin_sent_ GUARDED_BY(mutex_) = false;
  bool over_ GUARDED_BY(mutex_) = false;
};

}  // namespace conclave::gateway

// Where a running request's events go: a transport's answer being made.
//
// Called one event at a time, in order, on the gateway's core thread; for a kept answer, and where
// that thread takes no more, on the thread that submits the request. Implementations queue and
// return at once. The last call is OnDone or OnFailed.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "services/gateway/engine_link.h"
#include "services/gateway/generation.h"

namespace conclave::gateway {

struct Usage {
  int64_t prompt_tokens = 0;
  int64_t completion_tokens = 0;
  int64_t cached_tokens = 0;
  int64_t engine_us = 0;
  int64_t expert_us = 0;
  int64_t kv_byte_seconds = 0;
};

struct Started {
  std::string request_id;
  uint64_t seed = 0;
  std::string resume_token;  // 177 bytes, resume_token.h
  std::string model;
  std::string system_fingerprint;
  SharedIds prompt_ids;
  CacheStatus cache = CacheStatus::kNone;
};

struct ChoiceTokens {
  int32_t choice_index = 0;
  int64_t token_index = 0;  // of the first id
  std::vector<int32_t> ids;
  std::string text;  // what becomes visible; may be empty
  std::vector<PositionLogprobs> logprobs;
};

struct ChoiceFinished {
  int32_t choice_index = 0;
  FinishReason reason = FinishReason::kStop;
  std::string stop;          // the stop string that matched, if one did
  std::string text;          // the last held-back text
  std::vector<int32_t> ids;  // all that count
};

class GenerationSink {
 public:
  virtual ~GenerationSink() = default;
  virtual void OnStarted(const Started& started) = 0;
  virtual void OnTokens(const ChoiceTokens& tokens) = 0;
  virtual void OnFinished(const ChoiceFinished& finished) = 0;
  virtual void OnDone(const Usage& usage) = 0;
  virtual void OnFailed(const absl::Status& status) = 0;
};

}  // namespace conclave::gateway

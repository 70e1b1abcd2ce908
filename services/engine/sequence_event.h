// What the engine tells a gateway about a sequence, without protobuf; and who passes it on.
#pragma once

#include <cstdint>
#include <optional>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "kernels/sample.h"

namespace conclave::engine {

struct ChosenLogprobs {
  float chosen = 0;
  std::vector<kernels::TokenLogprob> top;  // descending
};

struct TokensEvent {
  int64_t token_index = 0;  // of the first id, among all generated ids
  std::vector<int32_t> ids;
  std::vector<ChosenLogprobs> logprobs;  // one an id, or empty when not asked for
};

enum class EndReason : uint8_t { kStop, kLength, kCancelled };

struct FinishedEvent {
  EndReason reason = EndReason::kStop;
  std::optional<int32_t> stop_id;  // kStop: the id that ended it; it is not among the tokens
  int64_t cached_tokens = 0;
  int64_t engine_us = 0;
  int64_t expert_us = 0;
  int64_t kv_byte_seconds = 0;
};

struct FailedEvent {
  absl::Status status;
};

struct SequenceEvent {
  uint64_t sequence_id = 0;
  std::variant<TokensEvent, FinishedEvent, FailedEvent> what;

  bool IsLast() const { return !std::holds_alternative<TokensEvent>(what); }
};

// Takes the events of one step for one stream. Called on the step thread; must not block. A stream
// that is gone drops them.
class EventSink {
 public:
  virtual ~EventSink() = default;
  virtual void Deliver(uint64_t stream, std::vector<SequenceEvent> events) = 0;
  // About once a second, as long as the step loop turns.
  virtual void OnTurn() {}
};

}  // namespace conclave::engine

// The seam between the gateway's core and the engines: what is asked of an engine, and what comes
// back. No protobuf.
//
// EngineClient (engine_client.h) is the gRPC side of it; tests of the core stand in for it.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "services/gateway/generation.h"
#include "shared/placement/topology.h"

namespace conclave::gateway {

// How an engine introduces itself.
struct EngineIdentity {
  std::string fingerprint;  // 64 hex digits
  std::string served_name;
  std::string numerics_class;
  std::string system_fingerprint;
  int64_t context_tokens = 0;
  int32_t vocab_size = 0;
  int32_t max_running = 0;  // sequences at once; 0: it does not say
  int64_t kv_tokens = 0;    // that its KV cache holds; 0: it does not say
  bool prefix_cache = false;
};

// One choice of one request. `generated_ids` are those that another engine has already produced.
struct SequenceStart {
  uint64_t sequence_id = 0;  // unique in this gateway
  SharedIds prompt_ids;
  std::vector<int32_t> generated_ids;
  std::string fingerprint;
  uint64_t seed = 0;
  int32_t choice_index = 0;
  Sampling sampling;
  int64_t max_tokens = 0;
  int64_t min_tokens = 0;
  std::vector<int32_t> stop_ids;
  QosClass qos = QosClass::kInteractive;
  double tenant_weight = 1;
  std::string tenant_salt;   // of the KV cache's blocks: sequences of one share them
  int64_t remaining_ms = 0;  // 0: no deadline
  std::string traceparent;
  std::string request_id;
};

struct PositionLogprobs {
  float chosen = 0;
  std::vector<std::pair<int32_t, float>> top;  // ids and log-probabilities, most probable first
};

struct SequenceTokens {
  int64_t token_index = 0;  // of the first id, in the sequence's output
  std::vector<int32_t> ids;
  std::vector<PositionLogprobs> logprobs;  // one an id, or none
};
struct SequenceFinished {
  FinishReason reason = FinishReason::kStop;
  std::optional<int32_t> stop_id;  // the id that ended it: not among the tokens, but it counts
  int64_t cached_tokens = 0;
  int64_t engine_us = 0;
  int64_t expert_us = 0;
  int64_t kv_byte_seconds = 0;
};
struct SequenceFailed {
  absl::Status status;
  bool refused = false;  // nothing was begun, because the engine is leaving
};
struct SequenceEvent {
  uint64_t sequence_id = 0;
  std::variant<SequenceTokens, SequenceFinished, SequenceFailed> what;
};

// Told what happens to one engine. Called on any thread; must not block.
class EngineListener {
 public:
  virtual ~EngineListener() = default;
  virtual void OnEngineConnected(const std::string& engine, const EngineIdentity& identity) = 0;
  // Experts that no live worker of this engine serves; before OnEngineConnected, and whenever they
  // change.
  virtual void OnEngineReach(const std::string& engine, const placement::ExpertKeys& missing) = 0;
  // It takes no further starts: once none of this gateway's sequences is left there, its link is to
  // be finished.
  virtual void OnEngineLeaving(const std::string& engine) = 0;
  // One step's events. The next ones come after `taken` was called, which bounds what waits in the
  // gateway.
  virtual void OnEngineEvents(const std::string& engine, std::vector<SequenceEvent> events,
                              std::function<void()> taken) = 0;
  // The stream ended; every sequence on it is lost.
  virtual void OnEngineLost(const std::string& engine, const absl::Status& why) = 0;
};

// One engine, used by one thread. Start and Cancel do nothing while the stream is down or finished:
// OnEngineLost has been, or will be, called.
class EngineLink {
 public:
  virtual ~EngineLink() = default;  // Close, and waits until closed
  virtual void Start(const SequenceStart& start) = 0;
  virtual void Cancel(uint64_t sequence_id) = 0;
  // Says that no further command comes on this stream: the engine ends it once it has read all.
  virtual void Finish() = 0;
  // Called about ten times a second: the place to reconnect.
  virtual void Tick() = 0;
  // Begins to end the stream: no listener call follows, and no new stream.
  virtual void Close() = 0;
  // True when nothing of the stream is left. It needs every `taken` to have been called.
  virtual bool closed() const = 0;
};

using EngineLinkFactory = std::function<std::unique_ptr<EngineLink>(
    const std::string& name, const std::string& address, EngineListener* listener)>;

}  // namespace conclave::gateway

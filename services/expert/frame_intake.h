// What a worker does with the frames of one engine's stream, whatever carries them: checks them,
// makes requests of them that the compute thread takes, and answers hellos.
//
// Used by one thread at a time.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/status.h"
#include "services/expert/compute_loop.h"
#include "services/expert/in_flight_limit.h"
#include "services/expert/pending_frame.h"
#include "shared/base/clock.h"
#include "shared/rpc/received_message.h"
#include "shared/rpc/row_frame.h"

namespace conclave::expert {

// What every stream of a worker needs to know. Immutable; what it points to outlives the streams.
struct StreamContext {
  rpc::HelloFrame hello;  // sent first; fingerprint, class and row type that requests must have
  uint32_t hidden = 0;    // elements of a row
  uint32_t num_layers = 0;
  uint32_t num_experts = 0;  // in each MoE layer
  ComputeLoop* compute = nullptr;
  InFlightLimit* limit = nullptr;  // of all streams together; hello.window_bytes is each one's
  const Clock* clock = nullptr;
  std::atomic<int>* num_streams = nullptr;  // counts those that live; may be null
};

class FrameIntake {
 public:
  // `sink`: where answers go; it owns this.
  FrameIntake(const StreamContext& context, AnswerSink* sink);

  uint64_t stream() const { return id_; }  // unique in the process
  // To be sent when the stream begins.
  void SendHello();
  // Not OK: the stream is to end with this.
  absl::Status Handle(rpc::ReceivedMessage message, const std::shared_ptr<AnswerSink>& sink);

 private:
  void HandleRequest(rpc::ParsedRequest request, rpc::ReceivedMessage message,
                     const std::shared_ptr<AnswerSink>& sink);
  absl::Status CheckHello(const rpc::HelloFrame& hello) const;
  absl::Status CheckRequest(const rpc::ParsedRequest& request) const;
  void SendError(uint64_t call_id, const absl::Status& status);

  const StreamContext& context_;
  AnswerSink& sink_;
  const uint64_t id_;
  bool greeted_ = false;
};

}  // namespace conclave::expert

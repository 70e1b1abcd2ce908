// One engine's stream: reads frames and submits them, writes answers one at a time, and stops
// reading while too many bytes are in flight.
//
// A gRPC reactor: its callbacks run on gRPC's threads. Lives until OnDone and until the compute
// thread has forgotten it.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "services/expert/compute_loop.h"
#include "services/expert/in_flight_limit.h"
#include "services/expert/pending_frame.h"
#include "shared/base/clock.h"
#include "shared/base/mutex.h"
#include "shared/rpc/byte_buffer.h"
#include "shared/rpc/row_frame.h"

namespace conclave::expert {

// What every stream of a worker needs to know. Immutable; what it points to outlives the streams.
struct StreamContext {
  rpc::HelloFrame hello;  // sent first; fingerprint, class and row type that requests must have
  uint32_t hidden = 0;    // elements of a row
  uint32_t num_layers = 0;
  uint32_t num_experts = 0;  // in each MoE layer
  ComputeLoop* compute = nullptr;
  InFlightLimit* limit = nullptr;  // of all streams together; hello.window_bytes is this stream's
  const Clock* clock = nullptr;
  std::atomic<int>* num_streams = nullptr;  // counts those that live; may be null
};

class DispatchStream final : public grpc::ServerBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                             public AnswerSink,
                             public std::enable_shared_from_this<DispatchStream> {
 public:
  explicit DispatchStream(const StreamContext& context);
  // Sends the hello and begins to read.
  void Start();

  void OnReadDone(bool ok) override;
  void OnWriteDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;

  void Send(rpc::OutgoingFrame frame) override;
  void RequestDone(size_t request_bytes) override;

 private:
  void Handle(rpc::ReceivedMessage message);
  void HandleRequest(rpc::ParsedRequest request, rpc::ReceivedMessage message);
  absl::Status CheckHello(const rpc::HelloFrame& hello) const;
  absl::Status CheckRequest(const rpc::ParsedRequest& request) const;
  void SendHello();
  void SendError(uint64_t call_id, const absl::Status& status);
  // Ends the stream with this status once the write in progress is done; what waits to be sent is
  // dropped.
  void End(const absl::Status& status) EXCLUDES(mutex_);
  // Starts the next write, or finishes, whatever is due.
  void Pump() EXCLUDES(mutex_);
  // Reads on unless too much is in flight.
  void ReadOn() EXCLUDES(mutex_);
  void AddInFlight(size_t bytes) EXCLUDES(mutex_);
  void SubtractInFlight(size_t bytes) EXCLUDES(mutex_);

  const StreamContext& context_;
  const uint64_t id_;
  std::shared_ptr<DispatchStream> self_;  // until OnDone
  grpc::ByteBuffer read_;
  bool greeted_ = false;  // reading callbacks only

  Mutex mutex_;
  std::deque<rpc::OutgoingFrame> outgoing_ GUARDED_BY(mutex_);
  size_t writing_bytes_ GUARDED_BY(mutex_) = 0;
  bool writing_ GUARDED_BY(mutex_) = false;
  bool paused_ GUARDED_BY(mutex_) = false;  // no read is outstanding
  int starting_reads_ GUARDED_BY(mutex_) = 0;
  bool finished_ GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> end_ GUARDED_BY(mutex_);
  size_t in_flight_bytes_ GUARDED_BY(mutex_) = 0;
  grpc::ByteBuffer written_;  // of the write in progress
};

}  // namespace conclave::expert

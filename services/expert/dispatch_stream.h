// One engine's stream over gRPC: reads frames and submits them, writes answers one at a time, and
// stops reading while too many bytes are in flight.
//
// A gRPC reactor: its callbacks run on gRPC's threads. Lives until OnDone and until the compute
// thread has forgotten it.
#pragma once

#include <cstddef>
#include <deque>
#include <memory>
#include <optional>

#include "absl/status/status.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/server_callback.h"
#include "services/expert/frame_intake.h"
#include "shared/base/mutex.h"

namespace conclave::expert {

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
  void RequestTaken(size_t request_bytes) override;
  void RequestDone(size_t request_bytes) override;

 private:
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
  FrameIntake intake_;                    // reading callbacks only
  std::shared_ptr<DispatchStream> self_;  // until OnDone
  grpc::ByteBuffer read_;

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

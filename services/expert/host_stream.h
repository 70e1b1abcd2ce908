// One engine's stream through shared memory: the compute thread itself reads its frames and writes
// the answers.
//
// Owned by the server of host links, and while it is polled or answers by the compute loop, on
// whose thread Poll and Send are called once it has started.
#pragma once

#include <atomic>
#include <functional>
#include <memory>

#include "services/expert/compute_loop.h"
#include "services/expert/frame_intake.h"
#include "services/expert/pending_frame.h"
#include "shared/rpc/host_frames.h"

namespace conclave::expert {

class HostStream final : public AnswerSink,
                         public FrameSource,
                         public std::enable_shared_from_this<HostStream> {
 public:
  // `hang_up`: ends the connection, upon which Close follows; any thread.
  HostStream(const StreamContext& context, std::shared_ptr<rpc::HostFrames> frames,
             std::function<void()> hang_up);
  ~HostStream() override;

  // Sends the hello and begins to read.
  void Start();
  // The engine is gone: nothing is read or sent any more.
  void Close();

  void Poll() override;
  void Send(rpc::OutgoingFrame frame) override;
  void RequestTaken(size_t request_bytes) override;
  void RequestDone(size_t request_bytes) override;

 private:
  // Whether so much is in flight that reading waits.
  bool Full();
  void CountWaiting();
  // Tells the engine why, unless what it did not take is in the way, and hangs up.
  void End(const absl::Status& status);

  const StreamContext& context_;
  const std::shared_ptr<rpc::HostFrames> frames_;
  const std::function<void()> hang_up_;
  FrameIntake intake_;
  std::atomic<size_t> request_bytes_{0};  // not answered
  size_t waiting_bytes_ = 0;  // of answers, counted under the limit; compute thread only
  std::atomic<bool> closed_{false};
  // Whoever makes room under the limit of all streams rings.
  const std::shared_ptr<std::atomic<bool>> waits_for_room_;
};

}  // namespace conclave::expert

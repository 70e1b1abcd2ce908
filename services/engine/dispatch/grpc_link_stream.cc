#include "services/engine/dispatch/grpc_link_stream.h"

#include <chrono>
#include <deque>
#include <optional>
#include <utility>

#include "grpcpp/generic/generic_stub.h"
#include "shared/base/mutex.h"
#include "shared/rpc/byte_buffer.h"
#include "shared/rpc/status.h"

namespace conclave::engine {
namespace {

constexpr char kMethod[] = "/conclave.v1.ExpertService/Dispatch";

// A gRPC call and its reactor; ends on gRPC's threads.
class GrpcLinkStream final : public LinkStream,
                             private grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  GrpcLinkStream(uint64_t stream_id, std::shared_ptr<LinkStreamOwner> owner,
                 const rpc::Channel* channel, std::shared_ptr<const void> presence)
      : LinkStream(stream_id),
        presence_(std::move(presence)),
        owner_(std::move(owner)),
        channel_(*channel) {}

  void Start(const std::shared_ptr<LinkStream>& self, rpc::OutgoingFrame hello) override {
    self_ = self;
    channel_.Prepare(&context_, std::chrono::milliseconds(0));
    grpc::TemplatedGenericStub<grpc::ByteBuffer, grpc::ByteBuffer> stub(channel_.grpc());
    stub.PrepareBidiStreamingCall(&context_, kMethod, {}, this);
    AddHold();  // for writes from other threads than gRPC's
    StartRead(&read_);
    Send(std::move(hello));
    StartCall();
  }

  bool Send(rpc::OutgoingFrame frame) override {
    {
      MutexLock lock(mutex_);
      if (closed_) return false;
      if (writing_) {
        outgoing_.push_back(std::move(frame));
        return true;
      }
      writing_ = true;
      written_ = rpc::ToByteBuffer(std::move(frame));
    }
    StartWrite(&written_);
    return true;
  }

  void Cancel(const absl::Status& why) override {
    {
      MutexLock lock(mutex_);
      if (!cancelled_.has_value()) cancelled_ = why;
    }
    context_.TryCancel();
  }

  std::string_view transport() const override { return "grpc"; }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return Close();
    owner_->OnMessage(this, rpc::FromByteBuffer(read_));
    read_.Clear();
    StartRead(&read_);
  }

  void OnWriteDone(bool ok) override {
    bool write = false, release = false;
    {
      MutexLock lock(mutex_);
      if (!ok) closed_ = true;
      if (!closed_ && !outgoing_.empty()) {
        written_ = rpc::ToByteBuffer(std::move(outgoing_.front()));
        outgoing_.pop_front();
        write = true;
      } else {
        writing_ = false;
        release = closed_ && std::exchange(held_, false);
      }
    }
    if (write) StartWrite(&written_);
    if (release) RemoveHold();
  }

  // The stream is over; a write that is in progress ends it in OnWriteDone.
  void Close() {
    bool release;
    {
      MutexLock lock(mutex_);
      closed_ = true;
      release = !writing_ && std::exchange(held_, false);
    }
    if (release) RemoveHold();
  }

  void OnDone(const grpc::Status& status) override {
    absl::Status why;
    {
      MutexLock lock(mutex_);
      why = cancelled_.has_value() ? *cancelled_ : rpc::FromGrpc(status);
    }
    if (why.ok()) why = absl::UnavailableError("the worker ended the stream");
    owner_->OnEnd(this, why);
    const std::shared_ptr<LinkStream> last = std::move(self_);  // may delete this
  }

  const std::shared_ptr<const void> presence_;  // first: it goes after all others
  const std::shared_ptr<LinkStreamOwner> owner_;
  const rpc::Channel& channel_;
  std::shared_ptr<LinkStream> self_;
  grpc::ClientContext context_;
  grpc::ByteBuffer read_, written_;
  Mutex mutex_;
  std::deque<rpc::OutgoingFrame> outgoing_ GUARDED_BY(mutex_);
  bool writing_ GUARDED_BY(mutex_) = false;
  bool closed_ GUARDED_BY(mutex_) = false;  // nothing more is sent
  bool held_ GUARDED_BY(mutex_) = true;
  std::optional<absl::Status> cancelled_ GUARDED_BY(mutex_);
};

}  // namespace

std::shared_ptr<LinkStream> MakeGrpcLinkStream(uint64_t id, std::shared_ptr<LinkStreamOwner> owner,
                                               const rpc::Channel* channel,
                                               std::shared_ptr<const void> presence) {
  return std::make_shared<GrpcLinkStream>(id, std::move(owner), channel, std::move(presence));
}

}  // namespace conclave::engine

#include "services/expert/host_stream.h"

#include <utility>

namespace conclave::expert {
namespace {

// Of one stream, before others have their turn.
constexpr int kMostFrames = 64;

}  // namespace

HostStream::HostStream(const StreamContext& context, std::shared_ptr<rpc::HostFrames> frames,
                       std::function<void()> hang_up)
    : context_(context),
      frames_(std::move(frames)),
      hang_up_(std::move(hang_up)),
      intake_(context, this),
      waits_for_room_(std::make_shared<std::atomic<bool>>(false)) {
  if (context_.num_streams != nullptr) ++*context_.num_streams;
}

HostStream::~HostStream() {
  context_.limit->Subtract(waiting_bytes_);
  if (context_.num_streams != nullptr) --*context_.num_streams;
}

void HostStream::Start() {
  intake_.SendHello();
  context_.compute->AddSource(shared_from_this());
}

void HostStream::Close() {
  closed_ = true;
  context_.compute->RemoveSource(this);
  context_.compute->CloseStream(intake_.stream());
}

bool HostStream::Full() {
  if (request_bytes_ + waiting_bytes_ >= context_.hello.window_bytes) return true;
  if (!context_.limit->full()) return false;
  if (waits_for_room_->exchange(true)) return true;
  const auto resume = [compute = context_.compute, waits = waits_for_room_] {
    *waits = false;
    compute->doorbell()->Ring();
  };
  if (context_.limit->WaitIfFull(resume)) return true;
  *waits_for_room_ = false;
  return false;
}

void HostStream::Poll() {
  if (closed_) return;
  const absl::Status flushed = frames_->Flush();
  CountWaiting();
  if (!flushed.ok()) return End(flushed);
  for (int i = 0; i < kMostFrames; ++i) {
    if (closed_ || Full()) return;
    absl::StatusOr<std::optional<rpc::ReceivedMessage>> message = frames_->Receive();
    if (!message.ok()) return End(message.status());
    if (!message->has_value()) return;
    const absl::Status handled = intake_.Handle(**std::move(message), shared_from_this());
    if (!handled.ok()) return End(handled);
  }
  context_.compute->doorbell()->Ring();  // there may be more
}

void HostStream::Send(rpc::OutgoingFrame frame) {
  if (closed_) return;
  const absl::Status sent = frames_->Send(std::move(frame));
  CountWaiting();
  if (!sent.ok()) End(sent);
}

void HostStream::CountWaiting() {
  const size_t before = std::exchange(waiting_bytes_, frames_->waiting_bytes());
  if (waiting_bytes_ > before) context_.limit->Add(waiting_bytes_ - before);
  if (waiting_bytes_ < before) context_.limit->Subtract(before - waiting_bytes_);
}

void HostStream::RequestTaken(size_t request_bytes) {
  request_bytes_ += request_bytes;
  context_.limit->Add(request_bytes);
}

void HostStream::RequestDone(size_t request_bytes) {
  const size_t window = context_.hello.window_bytes;
  const size_t before = request_bytes_.fetch_sub(request_bytes);
  context_.limit->Subtract(request_bytes);
  // It may have been too full to be read, and what room there is now nobody else tells.
  if (before >= window) context_.compute->doorbell()->Ring();
}

void HostStream::End(const absl::Status& status) {
  if (closed_.exchange(true)) return;
  rpc::OutgoingFrame frame;
  frame.push_back(rpc::FrameBuffer::CopyOf(
      rpc::EncodeError({0, status.code(), std::string(status.message())})));
  frames_->Send(std::move(frame)).IgnoreError();
  hang_up_();
}

}  // namespace conclave::expert

#include "services/expert/dispatch_stream.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/rpc/status.h"

namespace conclave::expert {
namespace {

std::atomic<uint64_t> next_stream_id{1};

// A message and copies of those of its rows that lie in two slices, or at an odd address.
struct FrameMemory {
  rpc::ReceivedMessage message;
  std::unique_ptr<std::byte[]> copies;
};

}  // namespace

DispatchStream::DispatchStream(const StreamContext& context)
    : context_(context), id_(next_stream_id++) {
  if (context_.num_streams != nullptr) ++*context_.num_streams;
}

void DispatchStream::Start() {
  self_ = shared_from_this();
  SendHello();
  StartRead(&read_);
}

void DispatchStream::SendHello() {
  rpc::OutgoingFrame hello;
  hello.push_back(rpc::FrameBuffer::CopyOf(rpc::EncodeHello(context_.hello)));
  Send(std::move(hello));
}

void DispatchStream::OnReadDone(bool ok) {
  if (!ok) return End(absl::OkStatus());  // the engine closed its side, or is gone
  Handle(rpc::ReceivedMessage(read_));
  read_.Clear();
  ReadOn();
}

void DispatchStream::OnWriteDone(bool ok) {
  size_t bytes;
  {
    MutexLock lock(mutex_);
    writing_ = false;
    bytes = std::exchange(writing_bytes_, 0);
  }
  SubtractInFlight(bytes);
  if (!ok) return End(absl::OkStatus());
  Pump();
}

void DispatchStream::OnCancel() { End(absl::CancelledError("the stream was cancelled")); }

void DispatchStream::OnDone() {
  context_.compute->CloseStream(id_);
  size_t left = 0;
  {
    MutexLock lock(mutex_);
    for (const rpc::OutgoingFrame& frame : outgoing_) left += rpc::FrameBytes(frame);
    outgoing_.clear();
  }
  SubtractInFlight(left);
  if (context_.num_streams != nullptr) --*context_.num_streams;
  self_.reset();  // may delete this
}

void DispatchStream::Send(rpc::OutgoingFrame frame) {
  const size_t bytes = rpc::FrameBytes(frame);
  {
    MutexLock lock(mutex_);
    if (end_.has_value()) return;
    outgoing_.push_back(std::move(frame));
    in_flight_bytes_ += bytes;
  }
  context_.limit->Add(bytes);
  Pump();
}

void DispatchStream::RequestDone(size_t request_bytes) { SubtractInFlight(request_bytes); }

void DispatchStream::Pump() {
  bool write = false;
  absl::Status status;
  {
    MutexLock lock(mutex_);
    if (writing_ || finished_) return;
    if (end_.has_value()) {
      if (starting_reads_ > 0) return;
      finished_ = true;
      status = *end_;
    } else {
      if (outgoing_.empty()) return;
      rpc::OutgoingFrame frame = std::move(outgoing_.front());
      outgoing_.pop_front();
      writing_ = write = true;
      writing_bytes_ = rpc::FrameBytes(frame);
      written_ = rpc::ToByteBuffer(std::move(frame));
    }
  }
  // Outside of the lock, because gRPC may call back before these return.
  if (write) {
    StartWrite(&written_);
  } else {
    Finish(rpc::ToGrpc(status));
  }
}

void DispatchStream::End(const absl::Status& status) {
  {
    MutexLock lock(mutex_);
    if (!end_.has_value()) end_ = status;
  }
  context_.compute->CloseStream(id_);
  Pump();
}

void DispatchStream::ReadOn() {
  {
    MutexLock lock(mutex_);
    if (end_.has_value()) return;
    if (in_flight_bytes_ >= context_.hello.window_bytes) {
      paused_ = true;
      return;
    }
    ++starting_reads_;  // holds Finish back: a read must not start after it
  }
  const auto resume = [stream = weak_from_this()] {
    if (const auto self = stream.lock()) self->ReadOn();
  };
  if (!context_.limit->WaitIfFull(resume)) StartRead(&read_);
  {
    MutexLock lock(mutex_);
    --starting_reads_;
  }
  Pump();
}

void DispatchStream::AddInFlight(size_t bytes) {
  {
    MutexLock lock(mutex_);
    in_flight_bytes_ += bytes;
  }
  context_.limit->Add(bytes);
}

void DispatchStream::SubtractInFlight(size_t bytes) {
  bool resume = false;
  {
    MutexLock lock(mutex_);
    in_flight_bytes_ -= bytes;
    if (paused_ && in_flight_bytes_ < context_.hello.window_bytes) {
      paused_ = false;
      resume = true;
    }
  }
  context_.limit->Subtract(bytes);
  if (resume) ReadOn();
}

void DispatchStream::Handle(rpc::ReceivedMessage message) {
  absl::StatusOr<rpc::ParsedFrame> frame = rpc::ParseRowFrame(message.bytes());
  if (!frame.ok()) return End(frame.status());
  if (const auto* hello = std::get_if<rpc::HelloFrame>(&*frame)) {
    if (const absl::Status status = CheckHello(*hello); !status.ok()) return End(status);
    // The first hello is answered by the one that was sent at the start.
    if (std::exchange(greeted_, true)) SendHello();
    return;
  }
  if (!greeted_)
    return End(absl::InvalidArgumentError("row frame: the first frame of a stream is a hello"));
  if (auto* request = std::get_if<rpc::ParsedRequest>(&*frame)) {
    HandleRequest(*std::move(request), std::move(message));
  } else if (const auto* cancel = std::get_if<rpc::CancelFrame>(&*frame)) {
    context_.compute->Cancel(id_, cancel->call_id);
  } else {
    End(
        absl::InvalidArgumentError("row frame: an expert worker takes hello, request and cancel "
                                   "frames, this is results or an error"));
  }
}

void DispatchStream::HandleRequest(rpc::ParsedRequest request, rpc::ReceivedMessage message) {
  const uint64_t call_id = request.header.call_id;
  if (const absl::Status status = CheckRequest(request); !status.ok())
    return SendError(call_id, status);

  auto frame = std::make_unique<PendingFrame>();
  auto memory = std::make_shared<FrameMemory>();
  memory->message = std::move(message);
  const rpc::ScatteredBytes& bytes = memory->message.bytes();
  const size_t alignment = kernels::RowTypeBytes(request.header.row_type);
  frame->rows.reserve(request.header.num_rows);
  for (uint32_t row = 0; row < request.header.num_rows; ++row) {
    const std::byte* in_place = rpc::RowInPlace(bytes, request.rows, row, alignment);
    if (in_place == nullptr) {
      if (memory->copies == nullptr) {
        memory->copies.reset(new std::byte[request.rows.num_rows * request.rows.row_bytes]);
      }
      std::byte* copy = memory->copies.get() + row * request.rows.row_bytes;
      bytes.CopyTo(request.rows.offset + row * request.rows.row_bytes,
                   {copy, request.rows.row_bytes});
      in_place = copy;
    }
    frame->rows.push_back(in_place);
  }
  frame->stream = id_;
  frame->message_bytes = bytes.size();
  frame->header = std::move(request.header);
  frame->references = std::move(request.references);
  frame->keeper = std::move(memory);
  frame->sink = shared_from_this();
  frame->arrival = context_.clock->Now();
  if (frame->header.remaining_ms > 0) {
    frame->deadline = frame->arrival + std::chrono::milliseconds(frame->header.remaining_ms);
  }
  frame->due = frame->deadline;
  if (frame->header.due_ms > 0) {
    const TimePoint due = frame->arrival + std::chrono::milliseconds(frame->header.due_ms);
    frame->due = std::min(due, frame->deadline);
  }
  const size_t message_bytes = frame->message_bytes;
  AddInFlight(message_bytes);
  if (!context_.compute->Submit(std::move(frame))) {
    SendError(call_id, absl::ResourceExhaustedError("too many frames wait at this worker"));
    SubtractInFlight(message_bytes);
  }
}

absl::Status DispatchStream::CheckHello(const rpc::HelloFrame& hello) const {
  const rpc::HelloFrame& own = context_.hello;
  if (hello.fingerprint == own.fingerprint && hello.numerics == own.numerics &&
      hello.row_type == own.row_type) {
    return absl::OkStatus();
  }
  return absl::FailedPreconditionError(absl::StrCat(
      "engine ", hello.name, " serves fingerprint ", rpc::FingerprintHex(hello.fingerprint),
      ", worker ", own.name, " serves ", rpc::FingerprintHex(own.fingerprint),
      "; start both with the same checkpoint and the same numerics class"));
}

absl::Status DispatchStream::CheckRequest(const rpc::ParsedRequest& request) const {
  const rpc::RequestHeader& header = request.header;
  if (header.fingerprint != context_.hello.fingerprint) {
    return absl::FailedPreconditionError(
        absl::StrCat("the frame's fingerprint is ", rpc::FingerprintHex(header.fingerprint),
                     ", this worker serves ", rpc::FingerprintHex(context_.hello.fingerprint)));
  }
  if (header.numerics != context_.hello.numerics || header.row_type != context_.hello.row_type) {
    return absl::FailedPreconditionError(
        "the frame's numerics class or row type is not this worker's");
  }
  if (header.hidden != context_.hidden) {
    return absl::InvalidArgumentError(absl::StrCat(
        "the frame's rows have ", header.hidden, " elements, the model's have ", context_.hidden));
  }
  if (header.layer >= context_.num_layers) {
    return absl::InvalidArgumentError(absl::StrCat("the frame's layer is ", header.layer,
                                                   ", the model has ", context_.num_layers));
  }
  for (const rpc::RowReference& reference : request.references) {
    if (reference.expert >= context_.num_experts) {
      return absl::InvalidArgumentError(absl::StrCat("the frame asks for expert ", reference.expert,
                                                     ", a layer has ", context_.num_experts));
    }
  }
  return absl::OkStatus();
}

void DispatchStream::SendError(uint64_t call_id, const absl::Status& status) {
  rpc::OutgoingFrame frame;
  frame.push_back(rpc::FrameBuffer::CopyOf(
      rpc::EncodeError({call_id, status.code(), std::string(status.message())})));
  Send(std::move(frame));
}

}  // namespace conclave::expert

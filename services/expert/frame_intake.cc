#include "services/expert/frame_intake.h"

#include <chrono>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"

namespace conclave::expert {
namespace {

std::atomic<uint64_t> next_stream_id{1};

// A message and copies of those of its rows that lie in two slices, or at an odd address.
struct FrameMemory {
  rpc::ReceivedMessage message;
  std::unique_ptr<std::byte[]> copies;
};

}  // namespace

FrameIntake::FrameIntake(const StreamContext& context, AnswerSink* sink)
    : context_(context), sink_(*sink), id_(next_stream_id++) {}

void FrameIntake::SendHello() {
  rpc::OutgoingFrame hello;
  hello.push_back(rpc::FrameBuffer::CopyOf(rpc::EncodeHello(context_.hello)));
  sink_.Send(std::move(hello));
}

absl::Status FrameIntake::Handle(rpc::ReceivedMessage message,
                                 const std::shared_ptr<AnswerSink>& sink) {
  ASSIGN_OR_RETURN(rpc::ParsedFrame frame, rpc::ParseRowFrame(message.bytes()));
  if (const auto* hello = std::get_if<rpc::HelloFrame>(&frame)) {
    RETURN_IF_ERROR(CheckHello(*hello));
    // The first hello is answered by the one that was sent at the start.
    if (std::exchange(greeted_, true)) SendHello();
    return absl::OkStatus();
  }
  if (!greeted_)
    return absl::InvalidArgumentError("row frame: the first frame of a stream is a hello");
  if (auto* request = std::get_if<rpc::ParsedRequest>(&frame)) {
    HandleRequest(std::move(*request), std::move(message), sink);
  } else if (const auto* cancel = std::get_if<rpc::CancelFrame>(&frame)) {
    context_.compute->Cancel(id_, cancel->call_id);
  } else {
    return absl::InvalidArgumentError(
        "row frame: an expert worker takes hello, request and cancel frames, this is results or an "
        "error");
  }
  return absl::OkStatus();
}

void FrameIntake::HandleRequest(rpc::ParsedRequest request, rpc::ReceivedMessage message,
                                const std::shared_ptr<AnswerSink>& sink) {
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
  frame->sink = sink;
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
  sink_.RequestTaken(message_bytes);
  if (!context_.compute->Submit(std::move(frame))) {
    SendError(call_id, absl::ResourceExhaustedError("too many frames wait at this worker"));
    sink_.RequestDone(message_bytes);
  }
}

absl::Status FrameIntake::CheckHello(const rpc::HelloFrame& hello) const {
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

absl::Status FrameIntake::CheckRequest(const rpc::ParsedRequest& request) const {
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

void FrameIntake::SendError(uint64_t call_id, const absl::Status& status) {
  rpc::OutgoingFrame frame;
  frame.push_back(rpc::FrameBuffer::CopyOf(
      rpc::EncodeError({call_id, status.code(), std::string(status.message())})));
  sink_.Send(std::move(frame));
}

}  // namespace conclave::expert

#include "services/expert/dispatch_stream.h"

#include <utility>

#include "shared/rpc/byte_buffer.h"
#include "shared/rpc/status.h"

namespace conclave::expert {

DispatchStream::DispatchStream(const StreamContext& context)
    : context_(context), intake_(context, this) {
  if (context_.num_streams != nullptr) ++*context_.num_streams;
}

void DispatchStream::Start() {
  self_ = shared_from_this();
  intake_.SendHello();
  StartRead(&read_);
}

void DispatchStream::OnReadDone(bool ok) {
  if (!ok) return End(absl::OkStatus());  // the engine closed its side, or is gone
  const absl::Status handled = intake_.Handle(rpc::FromByteBuffer(read_), self_);
  if (!handled.ok()) return End(handled);
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
  context_.compute->CloseStream(intake_.stream());
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

void DispatchStream::RequestTaken(size_t request_bytes) { AddInFlight(request_bytes); }

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
  context_.compute->CloseStream(intake_.stream());
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

}  // namespace conclave::expert

// A gRPC unary call that is answered later, from any thread, and that a client may give up before.
//
// Keeps itself alive until gRPC is done with it. Thread-safe; nothing blocks.
#pragma once

#include <memory>
#include <optional>
#include <utility>

#include "grpcpp/support/server_callback.h"
#include "services/gateway/wire_message.h"
#include "shared/base/clock.h"
#include "shared/base/mutex.h"
#include "shared/text/interrupt.h"

namespace conclave::gateway {

class UnaryCall : public grpc::ServerUnaryReactor, public std::enable_shared_from_this<UnaryCall> {
 public:
  // `response` lives until the reactor is finished, as gRPC promises.
  UnaryCall(grpc::ByteBuffer* response, std::optional<TimePoint> deadline)
      : response_(response), interrupt_(std::make_shared<text::Interrupt>(deadline)) {}

  // Call once, right after make_shared.
  void KeepAlive() { self_ = shared_from_this(); }

  // Of these, only the first call has an effect.
  template <typename Message>
  void Succeed(const Message& answer) EXCLUDES(mutex_) {
    grpc::ByteBuffer bytes = ToWire(answer);
    if (!TakeEnd(&bytes)) return;
    Finish(grpc::Status::OK);
  }
  void End(const grpc::Status& status) EXCLUDES(mutex_) {
    if (TakeEnd(nullptr)) Finish(status);
  }

  // Comes when the client has gone or the call's time is over.
  const std::shared_ptr<text::Interrupt>& interrupt() const { return interrupt_; }

  void OnCancel() override {
    interrupt_->Cancel();
    End(grpc::Status(grpc::StatusCode::CANCELLED, "the client has gone"));
  }
  void OnDone() override { self_.reset(); }  // may destroy this

 private:
  bool TakeEnd(grpc::ByteBuffer* answer) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    if (ended_) return false;
    ended_ = true;
    if (answer) response_->Swap(answer);
    return true;
  }

  grpc::ByteBuffer* const response_;
  const std::shared_ptr<text::Interrupt> interrupt_;
  std::shared_ptr<UnaryCall> self_;
  Mutex mutex_;
  bool ended_ GUARDED_BY(mutex_) = false;
};

}  // namespace conclave::gateway

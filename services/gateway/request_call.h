// A gRPC call of one message that is answered later, from any thread, and that a client may give up
// before.
#pragma once

#include <memory>
#include <optional>
#include <string_view>
#include <utility>

#include "shared/base/clock.h"
#include "shared/h2/server_call.h"
#include "shared/text/interrupt.h"

namespace conclave::gateway {

class RequestCall : public h2::ServerCall {
 public:
  explicit RequestCall(std::optional<TimePoint> deadline)
      : interrupt_(std::make_shared<text::Interrupt>(deadline)) {}

  // Once, on the I/O thread. `request` is valid during the call.
  virtual void Begin(std::string_view request) = 0;

  // The only message of the answer.
  void Succeed(const google::protobuf::MessageLite& answer) {
    if (Write(answer)) Finish(absl::OkStatus());
  }

  // Comes when the client has gone or the call's time is over.
  const std::shared_ptr<text::Interrupt>& interrupt() const { return interrupt_; }

  void OnMessage(std::string_view bytes) final {
    if (std::exchange(begun_, true)) {
      Finish(absl::InvalidArgumentError("the call has several messages; it takes one"));
    } else {
      Begin(bytes);
    }
  }
  void OnHalfClose() final {
    if (!begun_) Finish(absl::InvalidArgumentError("the call has no message; it takes one"));
  }
  void OnCancel() override { interrupt_->Cancel(); }

 private:
  const std::shared_ptr<text::Interrupt> interrupt_;
  bool begun_ = false;
};

}  // namespace conclave::gateway

// A frame that has arrived, whatever brought it.
//
// Movable; may be read on any thread.
#pragma once

#include <memory>
#include <utility>

#include "shared/rpc/row_frame.h"

namespace conclave::rpc {

class ReceivedMessage {
 public:
  ReceivedMessage() = default;
  // `keeper` owns what the bytes lie in; it goes with the message.
  ReceivedMessage(ScatteredBytes bytes, std::shared_ptr<const void> keeper)
      : keeper_(std::move(keeper)), bytes_(std::move(bytes)) {}
  ReceivedMessage(ReceivedMessage&&) = default;
  ReceivedMessage& operator=(ReceivedMessage&&) = default;

  const ScatteredBytes& bytes() const { return bytes_; }

 private:
  std::shared_ptr<const void> keeper_;
  ScatteredBytes bytes_;
};

}  // namespace conclave::rpc

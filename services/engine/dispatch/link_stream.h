// One attempt to speak with a worker, whatever carries the frames.
#pragma once

#include <cstdint>
#include <memory>
#include <string_view>

#include "absl/status/status.h"
#include "shared/rpc/frame_buffer.h"
#include "shared/rpc/received_message.h"

namespace conclave::engine {

class LinkStream;

// Who opened the stream. Called on the stream's threads, or on the one that polls; must not block.
class LinkStreamOwner {
 public:
  virtual ~LinkStreamOwner() = default;
  // In order, one at a time.
  virtual void OnMessage(LinkStream* stream, rpc::ReceivedMessage message) = 0;
  // Once, last: nothing is sent or received any more.
  virtual void OnEnd(LinkStream* stream, const absl::Status& status) = 0;
};

// Thread-safe. Keeps itself and its owner alive until OnEnd has returned.
class LinkStream {
 public:
  explicit LinkStream(uint64_t stream_id) : id(stream_id) {}
  virtual ~LinkStream() = default;
  LinkStream(const LinkStream&) = delete;
  LinkStream& operator=(const LinkStream&) = delete;

  const uint64_t id;  // unique in the process

  // Connects, and sends the hello first. Called once.
  virtual void Start(const std::shared_ptr<LinkStream>& self, rpc::OutgoingFrame hello) = 0;
  // False when the stream is over.
  virtual bool Send(rpc::OutgoingFrame frame) = 0;
  // Ends it, soon; `why` of the first call is what OnEnd tells.
  virtual void Cancel(const absl::Status& why) = 0;
  // Hands over what has come, where no thread of the stream's own does.
  virtual void Poll() {}
  // "grpc" or "shared_memory".
  virtual std::string_view transport() const = 0;
};

}  // namespace conclave::engine

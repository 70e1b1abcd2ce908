// The answer of one request between the threads that make it (Exchange) and the connection that
// writes it. Thread-safe.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "shared/base/mutex.h"
#include "shared/http/exchange.h"
#include "shared/http/message.h"

namespace conclave::http::internal {

class Outgoing {
 public:
  // `wake` tells the connection that there is something to Take: once after each Take, and first
  // after the first one. Thread-safe and quick. At most `capacity_bytes` wait here.
  Outgoing(size_t capacity_bytes, std::function<void()> wake);

  void Respond(Response response) EXCLUDES(mutex_);
  void BeginStream(StreamHead head) EXCLUDES(mutex_);
  void AddStreamHeader(std::string name, std::string value) EXCLUDES(mutex_);
  bool Write(std::string_view bytes) EXCLUDES(mutex_);
  void End() EXCLUDES(mutex_);
  // The handler lets go. Unless the answer has ended: a client that has gone gets nothing more,
  // another one the end of its stream, or `failure` if nothing was sent.
  void Drop(Response failure) EXCLUDES(mutex_);
  bool stream_begun() const EXCLUDES(mutex_);
  bool ended() const EXCLUDES(mutex_);
  void OnClientGone(std::function<void()> callback) EXCLUDES(mutex_);

  // What the connection is to write next.
  struct Batch {
    std::optional<Response> whole;
    std::optional<StreamHead> head;  // the first time there is stream output
    std::string bytes;               // of the stream
    bool stream = false;             // a stream was announced and has not ended
    bool ended = false;              // nothing follows
    Duration heartbeat_period{0};    // 0: no stream was announced
    bool close = false;              // the client reads too slowly, or was dropped once gone
  };
  Batch Take() EXCLUDES(mutex_);
  // More waits than may: nothing will be written any more.
  bool overflowed() const EXCLUDES(mutex_);
  // Queues the heartbeat of an announced stream.
  void Beat() EXCLUDES(mutex_);
  // Nobody reads a stream any more: its output is dropped, and the callback is called unless the
  // handler has given its whole answer. That may still come: a client that only closed its sending
  // side gets it.
  void ClientGone() EXCLUDES(mutex_);
  // The answer is written: the callback is not needed any more.
  void Completed() EXCLUDES(mutex_);

 private:
  enum class Phase { kOpen, kAnnounced, kStreaming, kEnded };

  // Whether the connection is to be woken for what is there now.
  bool Tell() REQUIRES(mutex_) { return !std::exchange(told_, true); }

  const size_t capacity_bytes_;
  const std::function<void()> wake_;
  mutable Mutex mutex_;
  Phase phase_ GUARDED_BY(mutex_) = Phase::kOpen;
  bool told_ GUARDED_BY(mutex_) = true;  // the connection is about to Take
  std::optional<Response> whole_ GUARDED_BY(mutex_);
  std::optional<StreamHead> head_ GUARDED_BY(mutex_);
  std::string heartbeat_ GUARDED_BY(mutex_);
  Duration heartbeat_period_ GUARDED_BY(mutex_){0};
  std::string bytes_ GUARDED_BY(mutex_);
  bool overflowed_ GUARDED_BY(mutex_) = false;
  bool gone_ GUARDED_BY(mutex_) = false;
  bool dropped_ GUARDED_BY(mutex_) = false;  // after the client had gone
  std::function<void()> on_gone_ GUARDED_BY(mutex_);
};

}  // namespace conclave::http::internal

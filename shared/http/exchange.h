// One request and the answer being made to it: the handler's side of a connection.
//
// A handler gets it on a worker thread (a quick one on the connection's), may keep it, and may
// answer from any thread; every method is thread-safe and none blocks. Bytes queue here until the
// connection's thread has written them; a client that reads too slowly is given up, so the queue is
// bounded. Destroying an exchange without an answer sends 500, or closes the connection when its
// client has gone.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "shared/base/clock.h"
#include "shared/http/message.h"

namespace conclave::http {

namespace internal {
class Outgoing;
}

// How a streamed answer begins.
struct StreamHead {
  std::string content_type = "text/event-stream";
  Headers headers = {};
  std::string heartbeat = "";  // sent whenever nothing else was for heartbeat_period; empty: none
  Duration heartbeat_period = std::chrono::seconds(10);
};

class Exchange {
 public:
  Exchange(Request request, std::shared_ptr<internal::Outgoing> outgoing);
  ~Exchange();
  Exchange(const Exchange&) = delete;
  Exchange& operator=(const Exchange&) = delete;

  const Request& request() const { return request_; }

  // The whole answer. Ignored if an answer has begun. After BeginStream it still counts as long as
  // nothing was sent.
  void Respond(Response response);

  // Announces a streamed answer of status 200. Nothing is sent before the first Write or heartbeat,
  // so that an early failure can still have its own status (Respond).
  void BeginStream(StreamHead head);
  // A further header of an announced stream; of no effect once something was sent.
  void AddStreamHeader(std::string name, std::string value);
  // Queues bytes. False when nobody will read them any more: the client has gone, or more than the
  // server's limit was unread.
  bool Write(std::string_view bytes);
  void EndStream();
  // True when bytes of a streamed answer were queued or sent: too late for Respond.
  bool stream_begun() const;

  // Calls `callback` once when the client goes away before Respond or EndStream: on the
  // connection's thread, or at once if that has happened. It must not block.
  void OnClientGone(std::function<void()> callback);

 private:
  const Request request_;
  const std::shared_ptr<internal::Outgoing> outgoing_;
};

}  // namespace conclave::http

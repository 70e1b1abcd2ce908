// One HTTP/2 stream that carries a call. Its session's, on the I/O thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "shared/h2/message_reader.h"
#include "shared/h2/request_head.h"
#include "shared/h2/server_call.h"
#include "shared/h2/timers.h"
#include "shared/net/room.h"

namespace conclave::h2 {

struct Stream {
  Stream(int32_t stream_id, size_t place, size_t max_message_bytes)
      : id(stream_id), index(place), reader(max_message_bytes) {}

  // Leaves of what is being sent only the messages that have been begun.
  void DropUnsent();

  const int32_t id;
  size_t index;  // among the session's streams

  // What arrives.
  RequestHead head;
  MessageReader reader;
  bool begun = false;                     // all headers are there
  std::shared_ptr<ServerCall> call;       // null: refused, or not begun
  bool has_message = false;               // a whole one has arrived
  bool remote_ended = false;              // nothing more arrives
  bool deaf = false;                      // nothing more is taken: the call has ended here
  bool touched = false;                   // listed for SettleArrivals
  std::optional<net::Room::Holder> room;  // of what is arriving
  Timers::Handle arrival, deadline;

  // What is sent.
  std::string sending;  // messages, each with its prefix
  size_t sent = 0;      // of them
  size_t packed = 0;    // of them, with the frame that is being sent
  bool last = false;    // nothing follows them
  bool responded = false, deferred = false, incremental = false;
  bool ended = false;                             // trailers have been submitted
  bool written = false;                           // listed for SettleUntaken
  std::optional<net::Room::Holder> untaken_room;  // of what the client does not take
  bool cancelled = false;                         // OnCancel was called
};

}  // namespace conclave::h2

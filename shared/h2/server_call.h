// One call, as the service that answers it sees it: derive from this, answer by Write and Finish.
//
// The On... methods are called on the I/O thread of the call's connection, one at a time; they must
// not block. Write and Finish may be called on any thread: what is written while a message is being
// taken leaves with everything else that the same read brought about. A call is kept alive by its
// connection until it is over, and by whoever else holds it; it may outlive its server.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "google/protobuf/message_lite.h"
#include "shared/base/clock.h"
#include "shared/base/mutex.h"
#include "shared/h2/metadata.h"

namespace conclave::h2 {

class Outlet;
struct Stream;

// Bytes of messages that may wait for a client that reads slowly; beyond, its call fails.
inline constexpr size_t kMaxUnsentBytes = 4 << 20;

// How a call begins; valid until the service has made its ServerCall.
struct CallStart {
  const Metadata& metadata;
  std::optional<TimePoint> deadline;  // steady clock; the server itself ends the call then
};

class ServerCall : public std::enable_shared_from_this<ServerCall> {
 public:
  ServerCall() = default;
  virtual ~ServerCall() = default;
  ServerCall(const ServerCall&) = delete;
  ServerCall& operator=(const ServerCall&) = delete;

  // `bytes` are valid during the call. Not called once the call is over.
  virtual void OnMessage(std::string_view bytes) = 0;
  // Whether it waits for its client alone, who may leave it so for ever: it then counts as one that
  // has sent no message yet. Asked on the I/O thread after messages.
  virtual bool idle() { return false; }
  // No message will come any more. Not called once the call is over.
  virtual void OnHalfClose() = 0;
  // The call is over before Finish: the client has gone or given up, or a limit was met. Called at
  // most once, and the last.
  virtual void OnCancel() = 0;

  // False when the call is over, or the client too far behind: the call then ends with
  // RESOURCE_EXHAUSTED, and OnCancel follows.
  bool Write(const google::protobuf::MessageLite& message) EXCLUDES(mutex_);
  bool WriteBytes(std::string_view message) EXCLUDES(mutex_);
  // Ends the call after what was written; later calls have no effect.
  void Finish(const absl::Status& status) EXCLUDES(mutex_);

  // From now on messages that wait are put into the first of them as field `number`, which its type
  // has as a repeated field of messages of the same type: with many small messages most of the cost
  // is that of each.
  void GatherAs(int number) EXCLUDES(mutex_);

 private:
  friend class Session;

  template <typename AppendMessage>
  bool Append(size_t bytes, AppendMessage append) EXCLUDES(mutex_);
  // Makes room for one message of `bytes` at the end of what waits: alone, or in the one before.
  void BeginMessage(size_t bytes) REQUIRES(mutex_);
  // False: the call had ended before.
  bool End(const absl::Status& status, bool drop_unsent) EXCLUDES(mutex_);

  // The connection's, on its I/O thread.
  void Attach(std::shared_ptr<Outlet> outlet, Stream* stream) EXCLUDES(mutex_);
  struct Unsent {
    size_t bytes = 0;
    bool dropped = false, ended = false;
  };
  // The stream is over.
  Unsent Detach() EXCLUDES(mutex_);
  Unsent unsent() EXCLUDES(mutex_);
  // What there is to do; from now on a change schedules the call again.
  Unsent TakeTurn() EXCLUDES(mutex_);
  // Exchanges what has been sent for what waits. True: nothing will follow it.
  bool NextBytes(std::string* sent) EXCLUDES(mutex_);
  absl::Status status() EXCLUDES(mutex_);
  bool ended() EXCLUDES(mutex_);

  Stream* stream_ = nullptr;  // I/O thread only; null once it is over

  Mutex mutex_;
  std::shared_ptr<Outlet> outlet_ GUARDED_BY(mutex_);  // null before Attach and once it is over
  std::string waiting_ GUARDED_BY(mutex_);             // messages, each with its prefix
  size_t last_message_ GUARDED_BY(mutex_) = 0;         // where the last of them begins
  size_t being_sent_ GUARDED_BY(mutex_) = 0;           // bytes, at most
  uint32_t gather_tag_ GUARDED_BY(mutex_) = 0;         // 0: every message goes alone
  bool scheduled_ GUARDED_BY(mutex_) = false;
  bool dropped_ GUARDED_BY(mutex_) = false;
  bool over_ GUARDED_BY(mutex_) = false;
  std::optional<absl::Status> end_ GUARDED_BY(mutex_);
};

}  // namespace conclave::h2

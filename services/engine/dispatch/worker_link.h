// One worker, as the engine reaches it: a long-lived stream that reconnects by itself, and hands
// what arrives to the step thread's inbox.
//
// Thread-safe. Send is called by the step thread, Tick by the dispatch's link thread, callbacks by
// gRPC's threads.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <variant>

#include "absl/status/status.h"
#include "shared/base/bounded_queue.h"
#include "shared/base/clock.h"
#include "shared/base/mutex.h"
#include "shared/rpc/byte_buffer.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/row_frame.h"

namespace conclave::engine {

// A part of results, with the message its rows lie in.
struct ResultsPart {
  rpc::ParsedResults results;
  rpc::ReceivedMessage message;
};
// The stream ended: every call on it is lost.
struct StreamLost {
  absl::Status status;
};
struct LinkEvent {
  uint64_t stream = 0;  // which the call was sent on
  std::variant<ResultsPart, rpc::ErrorFrame, StreamLost> what;
};
using LinkInbox = BoundedQueue<LinkEvent>;

class WorkerLink : public std::enable_shared_from_this<WorkerLink> {
 public:
  struct Options {
    std::string name;     // "expert-0"
    std::string address;  // host:port
    rpc::ClusterSecret secret;
    std::shared_ptr<const rpc::TlsCredentials> tls = {};
    std::shared_ptr<const rpc::ClusterId> cluster = {};
    rpc::HelloFrame hello;  // the engine's
    std::shared_ptr<LinkInbox> inbox;
    // A worker that has been sent something and gives no sign of life for so long is disconnected,
    // whatever became of the calls meanwhile.
    std::chrono::milliseconds silence_limit{2000};
    std::function<void()> on_change;  // connected or lost; must not block
  };
  // Connects at the first Tick.
  explicit WorkerLink(Options options);
  ~WorkerLink();

  const std::string& name() const { return options_.name; }
  const std::string& address() const { return options_.address; }

  // The stream that a frame sent now would travel on; 0 while there is none that the worker has
  // answered.
  uint64_t live_stream() const { return live_stream_.load(); }
  bool live() const { return live_stream() != 0; }

  // Sends a frame; the stream that took it, or 0.
  uint64_t Send(rpc::OutgoingFrame frame) EXCLUDES(mutex_);
  // Breaks the stream, so that the worker forgets what it was sent, and connects anew.
  void Reset(const absl::Status& reason) EXCLUDES(mutex_);

  // Opens a stream if one is due, asks a quiet worker for a sign of life, and gives up one that has
  // not given any for too long. Returns how long until the next call is useful.
  std::chrono::milliseconds Tick(TimePoint now) EXCLUDES(mutex_);
  // Ends the stream for good and waits for it, at most some seconds.
  void Stop() EXCLUDES(mutex_);

  // Rows sent and not answered: the measure by which replicas are chosen.
  std::atomic<int64_t> outstanding_rows{0};

 private:
  class Stream;
  struct Streams;
  void OnMessage(Stream* stream, rpc::ReceivedMessage message) EXCLUDES(mutex_);
  void OnHello(Stream* stream, const rpc::HelloFrame& hello) EXCLUDES(mutex_);
  void OnEnd(Stream* stream, const absl::Status& status) EXCLUDES(mutex_);

  rpc::OutgoingFrame Hello() const;
  // Of a live stream.
  std::chrono::milliseconds CheckSilence(TimePoint now) EXCLUDES(mutex_);

  const Options options_;
  const rpc::Channel channel_;
  std::atomic<uint64_t> live_stream_{0};

  // When the first frame was sent that nothing has been heard after; nanoseconds, 0: none is.
  std::atomic<int64_t> silent_since_ns_{0};
  // The thread that ticks alone.
  TimePoint ticked_at_;
  TimePoint asked_at_;

  mutable Mutex mutex_;
  const std::shared_ptr<Streams> streams_;             // how many exist; Stop waits for none
  std::shared_ptr<Stream> stream_ GUARDED_BY(mutex_);  // null between streams
  TimePoint attempt_at_ GUARDED_BY(mutex_);  // next attempt, or when an unanswered one is given up
  std::chrono::milliseconds backoff_ GUARDED_BY(mutex_);
  absl::Status reason_ GUARDED_BY(mutex_);  // of the latest end, which is not logged twice
  TimePoint first_attempt_ GUARDED_BY(mutex_);
  bool was_ever_live_ GUARDED_BY(mutex_) = false;
  bool told_ GUARDED_BY(mutex_) = false;    // that it is not reachable, since it last was
  bool warned_ GUARDED_BY(mutex_) = false;  // of the same
  bool stopped_ GUARDED_BY(mutex_) = false;
};

}  // namespace conclave::engine

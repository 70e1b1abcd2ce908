// One worker, as the engine reaches it: a long-lived stream that reconnects by itself, through
// shared memory where the worker is on this host and over gRPC otherwise, and hands what arrives to
// the step thread's inbox.
//
// Thread-safe. Send is called by the step thread, Tick by the dispatch's link thread, callbacks by
// the streams' threads and whoever polls the inbox.
#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "services/engine/dispatch/link_inbox.h"
#include "services/engine/dispatch/link_stream.h"
#include "shared/base/clock.h"
#include "shared/base/mutex.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/row_frame.h"

namespace conclave::engine {

class WorkerLink final : public LinkStreamOwner, public std::enable_shared_from_this<WorkerLink> {
 public:
  struct Options {
    std::string name;     // "expert-0"
    std::string address;  // host:port
    // Of its socket on this host, which is tried before the address; empty: there is none.
    std::string host_path = {};
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
  ~WorkerLink() override;

  const std::string& name() const { return options_.name; }
  const std::string& address() const { return options_.address; }
  const std::string& host_path() const { return options_.host_path; }

  // The stream that a frame sent now would travel on; 0 while there is none that the worker has
  // answered.
  uint64_t live_stream() const { return live_stream_.load(); }
  bool live() const { return live_stream() != 0; }
  // How: "grpc" or "shared_memory"; empty while there is none.
  std::string_view transport() const EXCLUDES(mutex_);

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
  struct Streams;
  class Presence;
  void OnMessage(LinkStream* stream, rpc::ReceivedMessage message) override EXCLUDES(mutex_);
  void OnHello(LinkStream* stream, const rpc::HelloFrame& hello) EXCLUDES(mutex_);
  void OnEnd(LinkStream* stream, const absl::Status& status) override EXCLUDES(mutex_);

  rpc::OutgoingFrame Hello() const;
  // The next attempt, not started.
  std::shared_ptr<LinkStream> MakeStream() REQUIRES(mutex_);
  // After a stream's end: which way the next one goes.
  bool ChooseWay(const LinkStream& stream, const absl::Status& status) REQUIRES(mutex_);
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
  const std::shared_ptr<Streams> streams_;                 // how many exist; Stop waits for none
  std::shared_ptr<LinkStream> stream_ GUARDED_BY(mutex_);  // null between streams
  bool on_host_ GUARDED_BY(mutex_) = false;                // stream_ is one through shared memory
  // The attempt through shared memory has failed: the next one is over gRPC.
  bool avoid_host_ GUARDED_BY(mutex_) = false;
  absl::Status host_failure_ GUARDED_BY(mutex_);  // of that attempt
  // It failed in a way that may pass: once the worker answers over gRPC, it is tried again.
  bool retry_host_ GUARDED_BY(mutex_) = false;
  bool retried_host_ GUARDED_BY(mutex_) = false;  // since it was last connected
  uint64_t last_live_ GUARDED_BY(mutex_) = 0;     // stream, also when it is no longer
  uint64_t given_up_ GUARDED_BY(mutex_) = 0;      // stream, for shared memory
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

#include "services/engine/dispatch/worker_link.h"

#include <algorithm>
#include <deque>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "grpcpp/generic/generic_stub.h"
#include "shared/base/log.h"
#include "shared/rpc/status.h"

namespace conclave::engine {
namespace {

using std::chrono::milliseconds;

constexpr char kMethod[] = "/conclave.v1.ExpertService/Dispatch";
// A stream that the worker has not answered with its hello is given up after this: connecting takes
// at most kConnectTimeout.
constexpr milliseconds kHelloTimeout{2000};
constexpr milliseconds kIdleTick{500};
// A worker is asked for a sign of life this often, unless it has just given one.
constexpr milliseconds kAskPeriod{500};
// After a longer pause between two ticks this process itself did not run: what the worker did
// meanwhile is not known.
constexpr milliseconds kLongestPause{1000};
constexpr milliseconds kStopTimeout{5000};
// A worker that was never reached may be starting, or be one of a topology from before: that is
// worth a warning after this.
constexpr milliseconds kStartTime{5000};

std::atomic<uint64_t> next_stream_id{1};

int64_t Nanoseconds(TimePoint time) { return time.time_since_epoch().count(); }

}  // namespace

// The streams of a link that still exist. A channel must not lose its last reference on one of
// gRPC's own threads, which it joins; the streams end on those, so the link, which owns the
// channel, outlives them by waiting here.
struct WorkerLink::Streams {
  Mutex mutex;
  CondVar none;
  int count GUARDED_BY(mutex) = 0;
};

// One attempt: a gRPC call and its reactor. Keeps itself alive until OnDone.
class WorkerLink::Stream final
    : public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer> {
 public:
  explicit Stream(std::shared_ptr<WorkerLink> link)
      : id(next_stream_id++), presence_(link->streams_), link_(std::move(link)) {}

  const uint64_t id;

  void Start(const std::shared_ptr<Stream>& self, rpc::OutgoingFrame hello) {
    self_ = self;
    link_->channel_.Prepare(&context_, milliseconds(0));
    grpc::TemplatedGenericStub<grpc::ByteBuffer, grpc::ByteBuffer> stub(link_->channel_.grpc());
    stub.PrepareBidiStreamingCall(&context_, kMethod, {}, this);
    AddHold();  // for writes from other threads than gRPC's
    StartRead(&read_);
    Send(std::move(hello));
    StartCall();
  }

  bool Send(rpc::OutgoingFrame frame) {
    {
      MutexLock lock(mutex_);
      if (closed_) return false;
      if (writing_) {
        outgoing_.push_back(std::move(frame));
        return true;
      }
      writing_ = true;
      written_ = rpc::ToByteBuffer(std::move(frame));
    }
    StartWrite(&written_);
    return true;
  }

  void Cancel(const absl::Status& why) {
    {
      MutexLock lock(mutex_);
      if (!cancelled_.has_value()) cancelled_ = why;
    }
    context_.TryCancel();
  }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return Close();
    link_->OnMessage(this, rpc::ReceivedMessage(read_));
    read_.Clear();
    StartRead(&read_);
  }

  void OnWriteDone(bool ok) override {
    bool write = false, release = false;
    {
      MutexLock lock(mutex_);
      if (!ok) closed_ = true;
      if (!closed_ && !outgoing_.empty()) {
        written_ = rpc::ToByteBuffer(std::move(outgoing_.front()));
        outgoing_.pop_front();
        write = true;
      } else {
        writing_ = false;
        release = closed_ && std::exchange(held_, false);
      }
    }
    if (write) StartWrite(&written_);
    if (release) RemoveHold();
  }

  // The stream is over; a write that is in progress ends it in OnWriteDone.
  void Close() {
    bool release;
    {
      MutexLock lock(mutex_);
      closed_ = true;
      release = !writing_ && std::exchange(held_, false);
    }
    if (release) RemoveHold();
  }

  void OnDone(const grpc::Status& status) override {
    absl::Status why;
    {
      MutexLock lock(mutex_);
      why = cancelled_.has_value() ? *cancelled_ : rpc::FromGrpc(status);
    }
    if (why.ok()) why = absl::UnavailableError("the worker ended the stream");
    link_->OnEnd(this, why);
    const std::shared_ptr<Stream> last = std::move(self_);  // may delete this
  }

  class Presence {
   public:
    explicit Presence(std::shared_ptr<Streams> streams) : streams_(std::move(streams)) {
      MutexLock lock(streams_->mutex);
      ++streams_->count;
    }
    ~Presence() {
      MutexLock lock(streams_->mutex);
      if (--streams_->count == 0) streams_->none.NotifyAll();
    }
    Presence(const Presence&) = delete;
    Presence& operator=(const Presence&) = delete;

   private:
    const std::shared_ptr<Streams> streams_;
  };

  const Presence presence_;  // first: it goes after all that refers to the channel
  const std::shared_ptr<WorkerLink> link_;
  std::shared_ptr<Stream> self_;
  grpc::ClientContext context_;
  grpc::ByteBuffer read_, written_;
  Mutex mutex_;
  std::deque<rpc::OutgoingFrame> outgoing_ GUARDED_BY(mutex_);
  bool writing_ GUARDED_BY(mutex_) = false;
  bool closed_ GUARDED_BY(mutex_) = false;  // nothing more is sent
  bool held_ GUARDED_BY(mutex_) = true;
  std::optional<absl::Status> cancelled_ GUARDED_BY(mutex_);
};

WorkerLink::WorkerLink(Options options)
    : options_(std::move(options)),
      channel_({.address = options_.address,
                .secret = options_.secret,
                .cluster = options_.cluster,
                .tls = options_.tls}),
      streams_(std::make_shared<Streams>()),
      backoff_(rpc::kReconnectBackoffFirst),
      reason_(absl::UnavailableError("not connected yet")) {}

WorkerLink::~WorkerLink() = default;

uint64_t WorkerLink::Send(rpc::OutgoingFrame frame) {
  std::shared_ptr<Stream> stream;
  {
    MutexLock lock(mutex_);
    if (!live()) return 0;
    stream = stream_;
  }
  int64_t none = 0;
  silent_since_ns_.compare_exchange_strong(none, Nanoseconds(std::chrono::steady_clock::now()));
  return stream->Send(std::move(frame)) ? stream->id : 0;
}

void WorkerLink::Reset(const absl::Status& reason) {
  std::shared_ptr<Stream> stream;
  {
    MutexLock lock(mutex_);
    live_stream_ = 0;
    stream = stream_;
  }
  if (stream != nullptr) stream->Cancel(reason);
}

rpc::OutgoingFrame WorkerLink::Hello() const {
  rpc::OutgoingFrame hello;
  hello.push_back(rpc::FrameBuffer::CopyOf(rpc::EncodeHello(options_.hello)));
  return hello;
}

milliseconds WorkerLink::CheckSilence(TimePoint now) {
  const bool slept = now - ticked_at_ > kLongestPause;
  ticked_at_ = now;
  const int64_t since = silent_since_ns_.load();
  if (slept && since != 0) silent_since_ns_ = Nanoseconds(now);
  const Duration silent = since == 0 || slept ? Duration(0) : Duration(Nanoseconds(now) - since);
  if (silent >= options_.silence_limit) {
    Reset(absl::UnavailableError(absl::StrCat(options_.name, " gave no sign of life for ",
                                              options_.silence_limit.count(), " ms")));
    return kIdleTick;
  }
  if (now - asked_at_ >= kAskPeriod) {
    asked_at_ = now;
    // A stream's hello may be repeated; the worker answers with its own (docs/wire-format.md).
    Send(Hello());
  }
  const Duration left = options_.silence_limit - silent;
  return std::min(kIdleTick, std::chrono::duration_cast<milliseconds>(left) + milliseconds(1));
}

milliseconds WorkerLink::Tick(TimePoint now) {
  if (live()) return CheckSilence(now);
  std::shared_ptr<Stream> opened, given_up;
  {
    MutexLock lock(mutex_);
    if (stopped_ || live()) return kIdleTick;
    if (now < attempt_at_)
      return std::chrono::duration_cast<milliseconds>(attempt_at_ - now) + milliseconds(1);
    if (first_attempt_ == TimePoint{}) first_attempt_ = now;
    if (stream_ == nullptr) {
      opened = stream_ = std::make_shared<Stream>(shared_from_this());
    } else {
      given_up = stream_;
    }
    attempt_at_ = now + kHelloTimeout;
  }
  ticked_at_ = asked_at_ = now;
  if (opened != nullptr) {
    opened->Start(opened, Hello());
  } else {
    given_up->Cancel(absl::UnavailableError("does not answer"));
  }
  return kHelloTimeout;
}

void WorkerLink::Stop() {
  std::shared_ptr<Stream> stream;
  {
    MutexLock lock(mutex_);
    stopped_ = true;
    live_stream_ = 0;
    stream = stream_;
  }
  if (stream != nullptr) {
    stream->Cancel(absl::CancelledError("the engine no longer uses this worker"));
    stream.reset();
  }
  const auto deadline = std::chrono::steady_clock::now() + kStopTimeout;
  MutexLock lock(streams_->mutex);
  while (streams_->count > 0 && streams_->none.WaitUntil(streams_->mutex, deadline)) {
  }
}

void WorkerLink::OnMessage(Stream* stream, rpc::ReceivedMessage message) {
  silent_since_ns_ = 0;
  absl::StatusOr<rpc::ParsedFrame> frame = rpc::ParseRowFrame(message.bytes());
  if (!frame.ok()) return stream->Cancel(frame.status());
  if (const auto* hello = std::get_if<rpc::HelloFrame>(&*frame)) return OnHello(stream, *hello);
  LinkEvent event{stream->id, {}};
  if (auto* results = std::get_if<rpc::ParsedResults>(&*frame)) {
    event.what = ResultsPart{std::move(*results), std::move(message)};
  } else if (auto* error = std::get_if<rpc::ErrorFrame>(&*frame)) {
    event.what = std::move(*error);
  } else {
    return stream->Cancel(absl::InvalidArgumentError(
        "row frame: a worker sends hello, results and error frames only"));
  }
  // A full inbox loses the part; the call then ends by its deadline.
  options_.inbox->TryPush(std::move(event));
}

void WorkerLink::OnHello(Stream* stream, const rpc::HelloFrame& hello) {
  const rpc::HelloFrame& own = options_.hello;
  if (hello.fingerprint != own.fingerprint || hello.numerics != own.numerics ||
      hello.row_type != own.row_type) {
    return stream->Cancel(absl::FailedPreconditionError(
        absl::StrCat("serves fingerprint ", rpc::FingerprintHex(hello.fingerprint),
                     ", this engine ", rpc::FingerprintHex(own.fingerprint))));
  }
  {
    MutexLock lock(mutex_);
    if (stopped_ || stream_.get() != stream) return;
    if (live_stream_ == stream->id) return;  // a sign of life
    backoff_ = rpc::kReconnectBackoffFirst;
    reason_ = absl::OkStatus();
    live_stream_ = stream->id;
    was_ever_live_ = true;
    told_ = warned_ = false;
  }
  LogInfo("worker connected", {{"worker", options_.name}, {"address", options_.address}});
  options_.on_change();
}

void WorkerLink::OnEnd(Stream* stream, const absl::Status& status) {
  bool tell, warn;
  {
    const TimePoint now = std::chrono::steady_clock::now();
    MutexLock lock(mutex_);
    live_stream_ = 0;
    warn = was_ever_live_ || now - first_attempt_ >= kStartTime;
    tell = !stopped_ && (warn ? !warned_ || reason_.message() != status.message() : !told_);
    if (tell) told_ = true;
    if (tell && warn) warned_ = true;
    reason_ = status;
    attempt_at_ = now + backoff_;
    backoff_ = std::min(backoff_ * 2, rpc::kReconnectBackoffMost);
  }
  if (tell) {
    Log(warn ? LogLevel::kWarning : LogLevel::kInfo,
        warn ? "worker not reachable" : "worker not reachable yet",
        {{"worker", options_.name},
         {"address", options_.address},
         {"reason", std::string(status.message())}});
  }
  options_.inbox->TryPush({stream->id, StreamLost{status}});
  options_.on_change();
  MutexLock lock(mutex_);
  stream_ = nullptr;
}

}  // namespace conclave::engine

#include "services/engine/dispatch/worker_link.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/engine/dispatch/grpc_link_stream.h"
#include "services/engine/dispatch/host_link_stream.h"
#include "shared/base/log.h"

namespace conclave::engine {
namespace {

using std::chrono::milliseconds;

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

// A stream that exists.
class WorkerLink::Presence {
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

std::string_view WorkerLink::transport() const {
  MutexLock lock(mutex_);
  return live() && stream_ != nullptr ? stream_->transport() : std::string_view();
}

uint64_t WorkerLink::Send(rpc::OutgoingFrame frame) {
  std::shared_ptr<LinkStream> stream;
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
  std::shared_ptr<LinkStream> stream;
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

std::shared_ptr<LinkStream> WorkerLink::MakeStream() {
  const auto presence = std::make_shared<const Presence>(streams_);
  on_host_ = !options_.host_path.empty() && !avoid_host_;
  if (on_host_) {
    return MakeHostLinkStream(next_stream_id++, shared_from_this(),
                              {.worker = options_.name,
                               .path = options_.host_path,
                               .secret = options_.secret,
                               .cluster = options_.cluster},
                              options_.inbox, presence);
  }
  return MakeGrpcLinkStream(next_stream_id++, shared_from_this(), &channel_, presence);
}

milliseconds WorkerLink::CheckSilence(TimePoint now) {
  std::shared_ptr<LinkStream> stream;
  {
    MutexLock lock(mutex_);
    stream = stream_;
  }
  if (stream != nullptr) stream->Poll();
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
  std::shared_ptr<LinkStream> opened, given_up;
  {
    MutexLock lock(mutex_);
    if (stopped_ || live()) return kIdleTick;
    if (now < attempt_at_)
      return std::chrono::duration_cast<milliseconds>(attempt_at_ - now) + milliseconds(1);
    if (first_attempt_ == TimePoint{}) first_attempt_ = now;
    if (stream_ == nullptr) {
      opened = stream_ = MakeStream();
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
  std::shared_ptr<LinkStream> stream;
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

void WorkerLink::OnMessage(LinkStream* stream, rpc::ReceivedMessage message) {
  silent_since_ns_ = 0;
  absl::StatusOr<rpc::ParsedFrame> frame = rpc::ParseRowFrame(message.bytes());
  if (!frame.ok()) return stream->Cancel(frame.status());
  if (const auto* hello = std::get_if<rpc::HelloFrame>(&*frame)) return OnHello(stream, *hello);
  LinkEvent event{stream->id, {}};
  if (auto* results = std::get_if<rpc::ParsedResults>(&*frame)) {
    event.what = ResultsPart{std::move(*results), std::move(message)};
  } else if (auto* error = std::get_if<rpc::ErrorFrame>(&*frame)) {
    // Of no call: why the worker ends the stream.
    if (error->call_id == 0) return stream->Cancel(absl::Status(error->code, error->message));
    event.what = std::move(*error);
  } else {
    return stream->Cancel(absl::InvalidArgumentError(
        "row frame: a worker sends hello, results and error frames only"));
  }
  // A full inbox loses the part; the call then ends by its deadline.
  options_.inbox->TryPush(std::move(event));
}

void WorkerLink::OnHello(LinkStream* stream, const rpc::HelloFrame& hello) {
  const rpc::HelloFrame& own = options_.hello;
  if (hello.fingerprint != own.fingerprint || hello.numerics != own.numerics ||
      hello.row_type != own.row_type) {
    return stream->Cancel(absl::FailedPreconditionError(
        absl::StrCat("serves fingerprint ", rpc::FingerprintHex(hello.fingerprint),
                     ", this engine ", rpc::FingerprintHex(own.fingerprint))));
  }
  bool try_host;
  std::string not_by_memory;
  {
    MutexLock lock(mutex_);
    if (stopped_ || stream_.get() != stream) return;
    if (live_stream_ == stream->id) return;  // a sign of life
    try_host = !on_host_ && std::exchange(retry_host_, false) && !retried_host_;
    retried_host_ = try_host;
    if (try_host) {
      given_up_ = stream->id;
    } else {
      backoff_ = rpc::kReconnectBackoffFirst;
      reason_ = absl::OkStatus();
      live_stream_ = last_live_ = stream->id;
      was_ever_live_ = true;
      told_ = warned_ = false;
      if (!on_host_) not_by_memory = std::string(host_failure_.message());
      host_failure_ = absl::OkStatus();
    }
  }
  // This stream has carried nothing yet.
  if (try_host) return stream->Cancel(absl::CancelledError("shared memory is tried again"));
  const std::string transport(stream->transport());
  if (not_by_memory.empty()) {
    LogInfo("worker connected",
            {{"worker", options_.name}, {"address", options_.address}, {"transport", transport}});
  } else {
    LogInfo("worker connected", {{"worker", options_.name},
                                 {"address", options_.address},
                                 {"transport", transport},
                                 {"not_by_memory", not_by_memory}});
  }
  options_.on_change();
}

// True: the other way is tried at once, and there is nothing to tell.
bool WorkerLink::ChooseWay(const LinkStream& stream, const absl::Status& status) {
  const bool lived = last_live_ == stream.id;
  if (!on_host_) {
    avoid_host_ = false;
    return given_up_ == stream.id;
  }
  // What breaks a stream that has lived may do so again.
  avoid_host_ = !lived || absl::IsInternal(status);
  if (lived || stopped_) return false;
  // It may be that the worker only begins, or did not run.
  retry_host_ = absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status) ||
                absl::IsResourceExhausted(status);
  host_failure_ = status;
  return true;
}

void WorkerLink::OnEnd(LinkStream* stream, const absl::Status& status) {
  bool other_way, tell, warn;
  {
    MutexLock lock(mutex_);
    live_stream_ = 0;
    other_way = ChooseWay(*stream, status);
    warn = was_ever_live_ || std::chrono::steady_clock::now() - first_attempt_ >= kStartTime;
    tell = !other_way && !stopped_ &&
           (warn ? !warned_ || reason_.message() != status.message() : !told_);
    if (tell) told_ = true;
    if (tell && warn) warned_ = true;
    if (!other_way) reason_ = status;
  }
  if (tell) {
    Log(warn ? LogLevel::kWarning : LogLevel::kInfo,
        warn ? "worker not reachable" : "worker not reachable yet",
        {{"worker", options_.name},
         {"address", options_.address},
         {"reason", std::string(status.message())}});
  }
  options_.inbox->TryPush({stream->id, StreamLost{status}});
  {
    MutexLock lock(mutex_);
    stream_ = nullptr;
    attempt_at_ = std::chrono::steady_clock::now();
    if (!other_way) {
      attempt_at_ += backoff_;
      backoff_ = std::min(backoff_ * 2, rpc::kReconnectBackoffMost);
    }
  }
  options_.on_change();
}

}  // namespace conclave::engine

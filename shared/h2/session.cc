#include "shared/h2/session.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/h2/session_options.h"
#include "shared/rpc/status.h"

namespace conclave::h2 {
namespace {

// Messages up to this may arrive from everybody; then who sends is looked at.
constexpr size_t kFreeMessageBytes = 8 << 10;
// A larger message, of somebody who may send it, gets a window of up to this.
constexpr size_t kMostWindow = 1 << 20;
// Of all streams of a connection together.
constexpr int32_t kConnectionWindow = 1 << 20;
// What a call takes here before its first message, besides its headers.
constexpr size_t kIdleCallBytes = 1 << 10;
// Calls that the client gives up, pings, settings and the like: so many at once, so many more a
// second.
constexpr double kNuisanceBurst = 1000, kNuisancesPerSecond = 500;
// Frames other than DATA that may wait while the client does not read.
constexpr size_t kMostQueuedFrames = 1000;

constexpr uint8_t kAliveMark[8] = {'a', 'l', 'i', 'v', 'e'};
constexpr uint8_t kShutdownMark[8] = {'e', 'n', 'd'};

}  // namespace

Session::Session(IoThread* thread, std::shared_ptr<Outlet> outlet)
    : thread_(thread),
      options_(*thread->options),
      outlet_(std::move(outlet)),
      last_frame_(std::chrono::steady_clock::now()),
      nuisances_(kNuisanceBurst, kNuisancesPerSecond) {
  nghttp2_session_server_new2(&session_, Callbacks(), this, SessionOptions());
  const nghttp2_settings_entry settings[] = {
      {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS,
       static_cast<uint32_t>(options_.max_concurrent_streams)},
      {NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, static_cast<uint32_t>(options_.max_header_bytes)},
      // The older scheme lets clients build trees of streams that do not exist.
      {NGHTTP2_SETTINGS_NO_RFC7540_PRIORITIES, 1}};
  nghttp2_submit_settings(session_, NGHTTP2_FLAG_NONE, settings, std::size(settings));
  nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, 0, kConnectionWindow);
}

Session::~Session() {
  for (const auto& stream : streams_) Detach(*stream);
  nghttp2_session_del(session_);
}

nghttp2_session_callbacks* Session::Callbacks() {
  static nghttp2_session_callbacks* const callbacks = [] {
    nghttp2_session_callbacks* made = nullptr;
    nghttp2_session_callbacks_new(&made);
    nghttp2_session_callbacks_set_on_begin_headers_callback(
        made, [](nghttp2_session*, const nghttp2_frame* frame, void* self) {
          if (frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
            Of(self).OnBeginHeaders(frame->hd.stream_id);
          }
          return 0;
        });
    nghttp2_session_callbacks_set_on_header_callback(
        made, [](nghttp2_session*, const nghttp2_frame* frame, const uint8_t* name,
                 size_t name_size, const uint8_t* value, size_t value_size, uint8_t, void* self) {
          Stream* const stream = Of(self).StreamOf(frame->hd.stream_id);
          if (stream && frame->headers.cat == NGHTTP2_HCAT_REQUEST) {
            stream->head.Add({reinterpret_cast<const char*>(name), name_size},
                             {reinterpret_cast<const char*>(value), value_size},
                             Of(self).options_.max_header_bytes);
            Of(self).Touch(*stream);  // they may come in several reads
          }
          return 0;
        });
    nghttp2_session_callbacks_set_on_frame_recv_callback(
        made, [](nghttp2_session*, const nghttp2_frame* frame, void* self) {
          Of(self).OnFrame(*frame);
          return 0;
        });
    nghttp2_session_callbacks_set_on_data_chunk_recv_callback(
        made,
        [](nghttp2_session*, uint8_t, int32_t id, const uint8_t* data, size_t size, void* self) {
          if (Stream* const stream = Of(self).StreamOf(id)) {
            Of(self).OnData(*stream, {reinterpret_cast<const char*>(data), size});
          }
          return 0;
        });
    nghttp2_session_callbacks_set_on_frame_send_callback(
        made, [](nghttp2_session*, const nghttp2_frame* frame, void* self) {
          Of(self).OnFrameSent(*frame);
          return 0;
        });
    nghttp2_session_callbacks_set_on_stream_close_callback(
        made, [](nghttp2_session*, int32_t id, uint32_t, void* self) {
          if (Stream* const stream = Of(self).StreamOf(id)) Of(self).OnClosed(*stream);
          return 0;
        });
    nghttp2_session_callbacks_set_send_data_callback(
        made, [](nghttp2_session*, nghttp2_frame*, const uint8_t* head, size_t length,
                 nghttp2_data_source* source, void* self) {
          return Of(self).SendData(*static_cast<Stream*>(source->ptr), head, length);
        });
    return made;
  }();
  return callbacks;
}

Stream* Session::StreamOf(int32_t id) const {
  return static_cast<Stream*>(nghttp2_session_get_stream_user_data(session_, id));
}

void Session::Know(const Stream& stream) {
  if (!stream.head.path().starts_with("/grpc.")) known_ = true;
}

bool Session::Receive(std::string_view bytes) {
  now_ = std::chrono::steady_clock::now();
  const ssize_t taken = nghttp2_session_mem_recv(
      session_, reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
  SettleArrivals();
  return taken >= 0;
}

bool Session::TakeWritten() {
  const Outlet::Calls calls = outlet_->Take();
  for (const auto& call : calls) Pump(*call);
  return !calls.empty();
}

void Session::Produce(std::string* output, size_t most) {
  output_ = output;
  most_output_ = most;
  for (;;) {
    const bool written = TakeWritten();
    if (shutdown_ == Shutdown::kDue) SubmitLastGoaway();
    while (output->size() < most) {
      const uint8_t* data = nullptr;
      const ssize_t size = nghttp2_session_mem_send(session_, &data);
      if (size <= 0) break;
      output->append(reinterpret_cast<const char*>(data), static_cast<size_t>(size));
    }
    if (output->size() >= most) break;
    overdrawn_ = false;  // the resets have been sent
    SettleUntaken();
    if (!written && !overdrawn_) break;
  }
  output_ = nullptr;
}

bool Session::Wait() {
  TakeWritten();
  SettleUntaken();
  return !overdrawn_;
}

bool Session::congested() const {
  return nghttp2_session_get_outbound_queue_size(session_) > kMostQueuedFrames;
}

void Session::Ping() {
  answered_ = false;
  nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, kAliveMark);
}

void Session::BeginShutdown() {
  if (shutdown_ != Shutdown::kNo) return;
  shutdown_ = Shutdown::kAnnounced;
  nghttp2_submit_shutdown_notice(session_);
}

void Session::AskIfHeard() { nghttp2_submit_ping(session_, NGHTTP2_FLAG_NONE, kShutdownMark); }

void Session::FinishShutdown() {
  if (shutdown_ != Shutdown::kTold) shutdown_ = Shutdown::kDue;
}

void Session::SubmitLastGoaway() {
  shutdown_ = Shutdown::kTold;
  nghttp2_submit_goaway(session_, NGHTTP2_FLAG_NONE,
                        nghttp2_session_get_last_proc_stream_id(session_), NGHTTP2_NO_ERROR,
                        nullptr, 0);
}

void Session::FailAll(const absl::Status& status) {
  for (const auto& stream : streams_) Fail(*stream, status);
}

bool Session::finished() const {
  if (nghttp2_session_want_write(session_)) return false;
  return !nghttp2_session_want_read(session_) || (shutdown_ == Shutdown::kTold && streams_.empty());
}

void Session::OnBeginHeaders(int32_t id) {
  streams_.push_back(std::make_unique<Stream>(id, streams_.size(), options_.max_receive_bytes));
  nghttp2_session_set_stream_user_data(session_, id, streams_.back().get());
  Touch(*streams_.back());
}

void Session::OnFrame(const nghttp2_frame& frame) {
  last_frame_ = now_;
  switch (frame.hd.type) {
    case NGHTTP2_HEADERS:
    case NGHTTP2_DATA: {
      Stream* const stream = StreamOf(frame.hd.stream_id);
      const bool ends = frame.hd.flags & NGHTTP2_FLAG_END_STREAM;
      if (frame.hd.type == NGHTTP2_DATA && frame.hd.length == 0 && !ends) CountNuisance();
      if (!stream) return;
      if (frame.hd.type == NGHTTP2_HEADERS && frame.headers.cat == NGHTTP2_HCAT_REQUEST) {
        Begin(*stream);
      }
      if (ends) HalfClose(*stream);
      return;
    }
    case NGHTTP2_SETTINGS:
      if (frame.hd.flags & NGHTTP2_FLAG_ACK) return;
      if (greeted_) CountNuisance();
      greeted_ = true;
      return;
    case NGHTTP2_PING:
      OnPing(frame.ping);
      return;
    default:
      return;
  }
}

void Session::OnPing(const nghttp2_ping& ping) {
  if (!(ping.hd.flags & NGHTTP2_FLAG_ACK)) {
    // gRPC's clients measure the way with pings while they are sent something.
    if (!std::exchange(sent_since_ping_, false)) CountNuisance();
    return;
  }
  answered_ = true;
  if (std::memcmp(ping.opaque_data, kShutdownMark, sizeof(kShutdownMark)) != 0) return;
  if (shutdown_ == Shutdown::kAnnounced) {
    shutdown_ = Shutdown::kHeard;
    AskIfHeard();
  } else if (shutdown_ == Shutdown::kHeard) {
    FinishShutdown();
  }
}

void Session::CountNuisance() {
  if (!nuisances_.Take(now_)) Terminate();
}

void Session::Terminate() {
  nghttp2_session_terminate_session2(session_, nghttp2_session_get_last_proc_stream_id(session_),
                                     NGHTTP2_ENHANCE_YOUR_CALM);
  outlet_->Wake();
}

void Session::Touch(Stream& stream) {
  if (!std::exchange(stream.touched, true)) touched_.push_back(&stream);
}

void Session::Begin(Stream& stream) {
  stream.begun = true;
  const RequestHead::Fault fault = stream.head.Check(options_.max_header_bytes);
  if (fault.http_status != 200) {
    SubmitHttpError(stream, fault.http_status);
    return;
  }
  if (!fault.status.ok()) {
    SubmitRefusal(stream, fault.status);
    return;
  }
  const auto method = thread_->methods->find(
      absl::string_view(stream.head.path().data(), stream.head.path().size()));
  if (method == thread_->methods->end()) {
    SubmitRefusal(stream, absl::UnimplementedError(absl::StrCat("there is no method ",
                                                                std::string(stream.head.path()))));
    return;
  }
  CallStart start = {.metadata = stream.head.metadata(), .deadline = std::nullopt};
  if (stream.head.timeout()) start.deadline = now_ + *stream.head.timeout();
  stream.reader.set_encoding(stream.head.encoding());
  stream.call = method->second(start);
  stream.call->Attach(outlet_, &stream);
  if (start.deadline) {
    thread_->timers.Set(&stream.deadline, *start.deadline, [this, &stream] {
      Fail(stream, absl::DeadlineExceededError("the call's deadline has passed"));
    });
  }
}

void Session::HalfClose(Stream& stream) {
  stream.remote_ended = true;
  if (!stream.call || stream.deaf) return;
  if (stream.reader.partial()) {
    Fail(stream, absl::InternalError("the request ends within a message"));
  } else {
    stream.call->OnHalfClose();
  }
}

void Session::OnData(Stream& stream, std::string_view bytes) {
  if (!stream.call || stream.deaf) return;
  const MessageReader::Events events = {
      .on_message =
          [&stream](std::string_view message) {
            stream.has_message = true;
            if (!stream.deaf) stream.call->OnMessage(message);
          },
      .may_arrive = [this, &stream](size_t size) { return MayArrive(stream, size); }};
  const absl::Status taken = stream.reader.Take(bytes, events);
  if (!taken.ok()) Fail(stream, taken);
  Touch(stream);
}

absl::Status Session::MayArrive(Stream& stream, size_t bytes) {
  if (bytes <= kFreeMessageBytes) return absl::OkStatus();
  if (options_.check_sender) {
    const absl::Status may =
        options_.check_sender(stream.head.metadata().Find("authorization").value_or(""));
    if (!may.ok()) return may;
    Know(stream);
  }
  const auto window = static_cast<int32_t>(std::min(bytes + kPrefixBytes, kMostWindow));
  if (window > nghttp2_session_get_stream_local_window_size(session_, stream.id)) {
    nghttp2_session_set_local_window_size(session_, NGHTTP2_FLAG_NONE, stream.id, window);
  }
  return absl::OkStatus();
}

void Session::SettleArrivals() {
  // In the order of their arrival: the oldest gives way first.
  for (Stream* const stream : touched_) {
    stream->touched = false;
    SettleArrival(*stream);
  }
  touched_.clear();
}

void Session::SettleArrival(Stream& stream) {
  const bool over = stream.begun && (!stream.call || stream.deaf);
  const size_t partial = over ? 0 : stream.reader.held();
  const bool idle = !over && (stream.has_message ? stream.call->idle() : !stream.remote_ended);
  if (!over && !idle && stream.has_message && !known_ && !stream.call->ended()) Know(stream);
  if (partial == 0) stream.arrival.Cancel();
  if (partial == 0 && !idle) {
    stream.room.reset();
    return;
  }
  if (partial > 0 && !stream.arrival.set()) {
    thread_->timers.Set(&stream.arrival, now_ + options_.message_timeout, [this, &stream] {
      Fail(stream, absl::DeadlineExceededError("a message did not arrive in time"));
    });
  }
  const auto crowded = [this, &stream] {
    if (!stream.begun) {  // until its headers are there, nothing else can be said here
      Terminate();
      return;
    }
    Fail(stream,
         rpc::WithDetails(
             absl::ResourceExhaustedError(
                 "too many messages are arriving, and this one took longest; try again"),
             {.reason = "OVERLOADED", .metadata = {}, .retry_after_ms = 1000, .fields = {}}));
  };
  if (!stream.room) stream.room.emplace(&thread_->arriving, crowded);
  // Headers are kept twice while strings grow.
  const size_t waiting = idle ? kIdleCallBytes + 2 * stream.head.bytes() : 0;
  if (!stream.room->Hold(partial + waiting)) crowded();
}

void Session::Fail(Stream& stream, const absl::Status& status) {
  if (!stream.call) return;
  Deafen(stream);
  if (stream.call->End(status, /*drop_unsent=*/true)) TellCancel(stream);
}

void Session::Deafen(Stream& stream) {
  stream.deaf = true;
  stream.reader.Drop();
}

void Session::TellCancel(Stream& stream) {
  if (!std::exchange(stream.cancelled, true)) stream.call->OnCancel();
}

bool Session::Detach(Stream& stream) {
  if (!stream.call) return false;
  const ServerCall::Unsent unsent = stream.call->Detach();
  if (!unsent.ended || unsent.dropped) TellCancel(stream);
  return !unsent.ended;
}

void Session::OnClosed(Stream& stream) {
  if (Detach(stream)) CountNuisance();
  if (stream.touched) touched_.erase(std::find(touched_.begin(), touched_.end(), &stream));
  nghttp2_session_set_stream_user_data(session_, stream.id, nullptr);
  const size_t index = stream.index;
  if (index + 1 < streams_.size()) {
    streams_[index].swap(streams_.back());
    streams_[index]->index = index;
  }
  streams_.pop_back();
}

}  // namespace conclave::h2

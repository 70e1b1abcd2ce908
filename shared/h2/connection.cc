#include "shared/h2/connection.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sys/socket.h>

#include <algorithm>
#include <random>
#include <utility>

namespace conclave::h2 {
namespace {

using boost::system::error_code;
using Result = ByteStream::Result;
using Wait = boost::asio::posix::stream_descriptor;

// Produced and written at once.
constexpr size_t kWriteBytes = 64 << 10;
// Reads in a row, before other connections have their turn.
constexpr int kMostReads = 4;
// Read of a newcomer in one turn: a usual first request.
constexpr size_t kNewcomerBytes = 4 << 10;
// For a client to hear of the end before its socket closes: a reset would destroy the last answer.
constexpr auto kLinger = std::chrono::seconds(1);
// For a client to hear of a coming end; it has answered twice after two ways there and back.
constexpr auto kAnnounced = std::chrono::seconds(2);

TimePoint Now() { return std::chrono::steady_clock::now(); }

// Ages differ, so that clients that came together do not come back together.
Duration Jittered(Duration age) {
  static thread_local std::minstd_rand random{std::random_device{}()};
  return std::chrono::duration_cast<Duration>(
      age * std::uniform_real_distribution<double>(0.9, 1.1)(random));
}

}  // namespace

Connection::Connection(IoThread* thread, int descriptor)
    : thread_(thread),
      options_(*thread->options),
      stream_(thread->io.get(), descriptor, options_.tls ? options_.tls->current() : nullptr),
      started_(Now()),
      phase_(options_.tls ? Phase::kHandshake : Phase::kPreface),
      place_(&thread->newcomers) {}

void Connection::Start() {
  const int one = 1;  // fails for Unix sockets, which have no such delay
  setsockopt(stream_.socket().native_handle(), IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
  outlet_ = std::make_shared<Outlet>(thread_->io, [weak = weak_from_this()] {
    const auto self = weak.lock();
    if (!self || self->phase_ != Phase::kOpen) return;
    self->outlet_->Attend(true);
    self->Flush();
    self->outlet_->Attend(false);
  });
  thread_->timers.Set(&phase_timer_, started_ + options_.handshake_timeout, [this] { Close(); });
  WaitReadable();
}

void Connection::WaitReadable() {
  Await(Wait::wait_read, &waits_readable_, &Connection::OnReadable);
}

void Connection::WaitWritable() {
  Await(Wait::wait_write, &waits_writable_, &Connection::OnWritable);
}

void Connection::Await(Wait::wait_type what, bool* waits, void (Connection::*then)()) {
  if (*waits || !stream_.open()) return;
  *waits = true;
  stream_.socket().async_wait(what, [self = shared_from_this(), waits, then](error_code error) {
    *waits = false;
    if (!error) ((*self).*then)();
  });
}

void Connection::OnReadable() {
  if (phase_ == Phase::kHandshake) {
    StepHandshake();
  } else {
    ReadInput();
  }
}

void Connection::StepHandshake() {
  if (!handshake_room_) {  // one that says nothing costs nothing but its socket
    handshake_room_ =
        std::make_unique<net::Room::Holder>(&thread_->handshakes, [this] { Close(); });
    handshake_room_->Hold(1);
  }
  switch (stream_.Handshake()) {
    case Result::kDone:
      handshake_room_.reset();
      phase_ = Phase::kPreface;
      ReadInput();
      return;
    case Result::kReadable:
      WaitReadable();
      return;
    case Result::kWritable:
      WaitWritable();
      return;
    case Result::kClosed:
      Close();
      return;
  }
}

void Connection::ReadInput() {
  if (newcomer()) {
    AwaitTurn();
    return;
  }
  for (int i = 0; i < kMostReads; ++i) {
    if (!ReadPiece(thread_->input)) return;
  }
  if (!stream_.HasUnread()) {
    WaitReadable();
    return;
  }
  boost::asio::post(*thread_->io, [self = shared_from_this()] { self->ReadInput(); });
}

bool Connection::ReadPiece(std::span<char> room) {
  // A client that does not read is not read from either, before what it is owed grows too long.
  if (!output_.empty() && session_ && session_->congested()) return false;
  size_t count = 0;
  switch (stream_.Read(room, &count)) {
    case Result::kDone:
      if (newcomer()) newcomer_bytes_ += count;
      TakeInput({room.data(), count});
      if (phase_ == Phase::kClosed) return false;
      if (stream_.encrypted() || count == room.size()) return true;
      WaitReadable();
      return false;
    case Result::kReadable:
      WaitReadable();
      return false;
    case Result::kWritable:
      WaitWritable();
      return false;
    case Result::kClosed:
      Close();
      return false;
  }
  return false;
}

void Connection::AwaitTurn() {
  if (phase_ != Phase::kClosed) place_.Await(newcomer_bytes_, [this] { TakeTurn(); });
}

void Connection::TakeTurn() {
  const auto self = shared_from_this();
  const bool speaks = phase_ == Phase::kPreface || phase_ == Phase::kOpen;
  if (newcomer() && speaks && stream_.Deserted()) {
    Close();  // nobody wants an answer to what is still unread
    return;
  }
  // It may have become known since it began to wait.
  if (!newcomer() || ReadPiece(std::span(thread_->input).first(kNewcomerBytes))) ReadInput();
}

void Connection::TakeInput(std::string_view bytes) {
  if (phase_ == Phase::kPreface && !TakePreface(&bytes)) {
    Close();
    return;
  }
  if (phase_ != Phase::kOpen) return;
  outlet_->Attend(true);
  const bool intact = session_->Receive(bytes);
  Flush();
  outlet_->Attend(false);
  if (!intact && phase_ == Phase::kOpen) BeginLinger();
  if (phase_ == Phase::kOpen && !greeted_ && session_->greeted()) OnGreeted();
}

bool Connection::TakePreface(std::string_view* bytes) {
  const size_t count = std::min(bytes->size(), kPreface.size() - preface_.size());
  preface_.append(bytes->substr(0, count));
  bytes->remove_prefix(count);
  if (!kPreface.starts_with(preface_)) return false;
  if (preface_.size() < kPreface.size()) return true;
  session_ = std::make_unique<Session>(thread_, outlet_);
  session_->Receive(preface_);
  std::string().swap(preface_);
  phase_ = Phase::kOpen;
  return true;
}

void Connection::OnGreeted() {
  greeted_ = true;
  phase_timer_.Cancel();
  if (options_.max_connection_age.count() > 0) {
    thread_->timers.Set(&age_timer_, started_ + Jittered(options_.max_connection_age),
                        [this] { Drain(); });
  }
  SetKeepalive(Now() + options_.ping_interval);
}

void Connection::SetKeepalive(TimePoint when) {
  thread_->timers.Set(&keepalive_timer_, when, [this] { CheckKeepalive(); });
}

void Connection::CheckKeepalive() {
  if (phase_ != Phase::kOpen) return;
  const TimePoint now = Now();
  if (!session_->answered()) {
    // While nothing can be written, the ping has not gone out: the write timeout decides.
    if (output_.empty()) {
      Close();
      return;
    }
    SetKeepalive(now + options_.ping_timeout);
    return;
  }
  const TimePoint quiet_until = session_->last_frame() + options_.ping_interval;
  if (quiet_until > now) {
    SetKeepalive(quiet_until);
    return;
  }
  session_->Ping();
  SetKeepalive(now + options_.ping_timeout);
  Flush();
}

void Connection::Flush() {
  const auto self = shared_from_this();
  // Calls are looked after also while the client takes nothing.
  if (!output_.empty() && phase_ == Phase::kOpen && !session_->Wait()) {
    Close();
    return;
  }
  while (output_.empty() && phase_ == Phase::kOpen) {
    std::string& output = thread_->output;
    output.clear();
    session_->Produce(&output, kWriteBytes);
    known_ = known_ || session_->known();
    if (output.empty()) break;
    size_t written = 0;
    const Result result = stream_.Write(output, &written);
    if (result == Result::kClosed) {
      Close();
    } else if (written < output.size()) {
      output_.assign(output, written);
      thread_->timers.Set(&write_timer_, Now() + options_.write_timeout, [this] { Close(); });
      WaitWritable();
      output_room_ = std::make_unique<net::Room::Holder>(&thread_->untaken, [this] {
        // Its own session may be what wants the room.
        boost::asio::post(*thread_->io, [self = shared_from_this()] { self->Close(); });
      });
      if (!output_room_->Hold(output_.size()) || !session_->Wait()) Close();
    }
  }
  if (phase_ == Phase::kOpen && output_.empty() && session_->finished()) BeginLinger();
}

void Connection::OnWritable() {
  if (phase_ == Phase::kHandshake) {
    StepHandshake();
    return;
  }
  size_t written = 0;
  const Result result = stream_.Write(output_, &written);
  output_.erase(0, written);
  if (result == Result::kClosed) {
    Close();
    return;
  }
  if (!output_.empty()) {
    if (written > 0) {
      thread_->timers.Set(&write_timer_, Now() + options_.write_timeout, [this] { Close(); });
    }
    WaitWritable();
    return;
  }
  std::string().swap(output_);
  output_room_.reset();
  write_timer_.Cancel();
  if (phase_ == Phase::kLinger) stream_.EndWriting();
  if (phase_ == Phase::kOpen) {
    outlet_->Attend(true);
    Flush();
    outlet_->Attend(false);
  }
  if (!waits_readable_ && phase_ != Phase::kClosed) ReadInput();
}

void Connection::Drain() {
  if (phase_ == Phase::kHandshake || phase_ == Phase::kPreface) {
    Close();
    return;
  }
  if (phase_ != Phase::kOpen) return;
  session_->BeginShutdown();
  thread_->timers.Set(&phase_timer_, Now() + kAnnounced, [this] {
    if (phase_ != Phase::kOpen) return;
    session_->FinishShutdown();
    Flush();
  });
  Flush();
}

void Connection::End(const absl::Status& status) {
  if (phase_ != Phase::kOpen) {
    Close();
    return;
  }
  const auto self = shared_from_this();
  outlet_->Attend(true);
  session_->FailAll(status);
  session_->FinishShutdown();
  Flush();
  outlet_->Attend(false);
  if (phase_ == Phase::kOpen) Close();
}

void Connection::BeginLinger() {
  phase_ = Phase::kLinger;
  outlet_->Close();
  session_.reset();
  age_timer_.Cancel();
  keepalive_timer_.Cancel();
  if (output_.empty()) stream_.EndWriting();  // else when it has been written
  thread_->timers.Set(&phase_timer_, Now() + kLinger, [this] { Close(); });
}

void Connection::Close() {
  if (phase_ == Phase::kClosed) return;
  phase_ = Phase::kClosed;
  place_.Leave();
  stream_.Close();
  for (Timers::Handle* const timer :
       {&phase_timer_, &age_timer_, &keepalive_timer_, &write_timer_}) {
    timer->Cancel();
  }
  outlet_->Close();
  session_.reset();
  // The caller may still be one of its own methods.
  boost::asio::post(*thread_->io, [self = shared_from_this()] { self->thread_->closed(); });
  thread_->connections.erase(this);
}

}  // namespace conclave::h2

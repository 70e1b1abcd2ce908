#include "shared/http/outgoing.h"

#include <utility>

namespace conclave::http::internal {

Outgoing::Outgoing(size_t capacity_bytes, std::function<void()> wake)
    : capacity_bytes_(capacity_bytes), wake_(std::move(wake)) {}

void Outgoing::Respond(Response response) {
  {
    MutexLock lock(mutex_);
    if (phase_ != Phase::kOpen && phase_ != Phase::kAnnounced) return;
    phase_ = Phase::kEnded;
    whole_ = std::move(response);
    head_.reset();
    heartbeat_period_ = Duration(0);
    if (!Tell()) return;
  }
  wake_();
}

void Outgoing::BeginStream(StreamHead head) {
  {
    MutexLock lock(mutex_);
    if (phase_ != Phase::kOpen) return;
    phase_ = Phase::kAnnounced;
    heartbeat_ = head.heartbeat;
    heartbeat_period_ = head.heartbeat.empty() ? Duration(0) : head.heartbeat_period;
    head_ = std::move(head);
    if (!Tell()) return;
  }
  wake_();
}

void Outgoing::AddStreamHeader(std::string name, std::string value) {
  MutexLock lock(mutex_);
  if (head_) head_->headers.emplace_back(std::move(name), std::move(value));
}

bool Outgoing::Write(std::string_view bytes) {
  {
    MutexLock lock(mutex_);
    if (gone_ || overflowed_) return false;
    if (phase_ != Phase::kAnnounced && phase_ != Phase::kStreaming) return false;
    phase_ = Phase::kStreaming;
    if (bytes_.size() + bytes.size() > capacity_bytes_) {
      overflowed_ = true;  // said at once: the connection may be writing for long yet
    } else {
      bytes_.append(bytes);
      if (!Tell()) return true;
    }
  }
  wake_();
  return true;
}

void Outgoing::End() {
  {
    MutexLock lock(mutex_);
    if (phase_ == Phase::kOpen || phase_ == Phase::kEnded) return;
    phase_ = Phase::kEnded;
    if (!Tell()) return;
  }
  wake_();
}

void Outgoing::Drop(Response failure) {
  {
    MutexLock lock(mutex_);
    if (phase_ == Phase::kEnded) return;
    if (gone_) {
      dropped_ = true;
    } else if (phase_ != Phase::kStreaming) {
      whole_ = std::move(failure);
      head_.reset();
      heartbeat_period_ = Duration(0);
    }
    phase_ = Phase::kEnded;
    if (!Tell()) return;
  }
  wake_();
}

bool Outgoing::stream_begun() const {
  MutexLock lock(mutex_);
  return phase_ == Phase::kStreaming || (phase_ == Phase::kEnded && !whole_);
}

bool Outgoing::ended() const {
  MutexLock lock(mutex_);
  return phase_ == Phase::kEnded;
}

void Outgoing::OnClientGone(std::function<void()> callback) {
  {
    MutexLock lock(mutex_);
    if (!gone_) {
      on_gone_ = std::move(callback);
      return;
    }
  }
  callback();
}

Outgoing::Batch Outgoing::Take() {
  MutexLock lock(mutex_);
  told_ = false;
  Batch batch;
  batch.whole = std::move(whole_);
  whole_.reset();
  batch.heartbeat_period = heartbeat_period_;
  batch.close = overflowed_ || dropped_;
  batch.ended = phase_ == Phase::kEnded;
  batch.stream = phase_ == Phase::kAnnounced || phase_ == Phase::kStreaming;
  if (phase_ == Phase::kStreaming || (batch.ended && !batch.whole)) {
    batch.head = std::move(head_);
    head_.reset();
    batch.bytes = std::exchange(bytes_, {});
  }
  return batch;
}

bool Outgoing::overflowed() const {
  MutexLock lock(mutex_);
  return overflowed_;
}

void Outgoing::Beat() {
  MutexLock lock(mutex_);
  if (phase_ != Phase::kAnnounced && phase_ != Phase::kStreaming) return;
  phase_ = Phase::kStreaming;
  if (bytes_.empty()) bytes_ = heartbeat_;
}

void Outgoing::ClientGone() {
  std::function<void()> callback;
  {
    MutexLock lock(mutex_);
    if (gone_) return;
    gone_ = true;
    bytes_.clear();
    callback = std::exchange(on_gone_, nullptr);
    if (phase_ == Phase::kEnded) return;  // the handler has finished: it awaits nothing
  }
  if (callback) callback();
}

void Outgoing::Completed() {
  std::function<void()> callback;  // destroyed outside the lock
  MutexLock lock(mutex_);
  gone_ = true;
  callback = std::exchange(on_gone_, nullptr);
}

}  // namespace conclave::http::internal

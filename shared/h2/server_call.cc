#include "shared/h2/server_call.h"

#include <utility>

#include "shared/h2/grpc_wire.h"
#include "shared/h2/outlet.h"

namespace conclave::h2 {
namespace {

// A message that others are put into has no more of them beyond this.
constexpr size_t kMostGatheredBytes = 64 << 10;
constexpr uint32_t kLengthDelimited = 2;

void PutLength(size_t length, char* prefix) {
  for (size_t i = kPrefixBytes; i-- > 1; length >>= 8) prefix[i] = static_cast<char>(length);
}

}  // namespace

void ServerCall::BeginMessage(size_t bytes) {
  const size_t last = waiting_.size() - last_message_;
  if (gather_tag_ != 0 && last > 0 && last + bytes <= kMostGatheredBytes) {
    AppendVarint(gather_tag_, &waiting_);
    AppendVarint(bytes, &waiting_);
  } else {
    last_message_ = waiting_.size();
    waiting_.append(kPrefixBytes, '\0');
  }
}

template <typename AppendMessage>
bool ServerCall::Append(size_t bytes, AppendMessage append) {
  std::shared_ptr<Outlet> outlet;
  bool fits = false;
  {
    MutexLock lock(mutex_);
    if (end_ || over_) return false;
    const size_t unsent = waiting_.size() + being_sent_;
    fits = unsent == 0 || unsent + bytes <= kMaxUnsentBytes;
    if (fits) {
      BeginMessage(bytes);
      append(&waiting_);
      PutLength(waiting_.size() - last_message_ - kPrefixBytes, waiting_.data() + last_message_);
      if (!std::exchange(scheduled_, true)) outlet = outlet_;
    }
  }
  if (!fits) {
    End(absl::ResourceExhaustedError("the client reads too slowly"), /*drop_unsent=*/true);
    return false;
  }
  if (outlet) outlet->Schedule(shared_from_this());
  return true;
}

bool ServerCall::Write(const google::protobuf::MessageLite& message) {
  const size_t bytes = message.ByteSizeLong();
  return Append(bytes, [&](std::string* to) {
    const size_t begin = to->size();
    to->resize(begin + bytes);
    message.SerializeWithCachedSizesToArray(reinterpret_cast<uint8_t*>(to->data() + begin));
  });
}

bool ServerCall::WriteBytes(std::string_view message) {
  return Append(message.size(), [&](std::string* to) { to->append(message); });
}

void ServerCall::Finish(const absl::Status& status) { End(status, /*drop_unsent=*/false); }

bool ServerCall::End(const absl::Status& status, bool drop_unsent) {
  std::shared_ptr<Outlet> outlet;
  {
    MutexLock lock(mutex_);
    if (end_ || over_) return false;
    end_ = status;
    if (drop_unsent) {
      waiting_.clear();
      dropped_ = true;
    }
    if (!std::exchange(scheduled_, true)) outlet = outlet_;
  }
  if (outlet) outlet->Schedule(shared_from_this());
  return true;
}

void ServerCall::GatherAs(int number) {
  MutexLock lock(mutex_);
  gather_tag_ = static_cast<uint32_t>(number) << 3 | kLengthDelimited;
}

void ServerCall::Attach(std::shared_ptr<Outlet> outlet, Stream* stream) {
  stream_ = stream;
  bool written = false;
  {
    MutexLock lock(mutex_);
    outlet_ = outlet;
    written = scheduled_;
  }
  if (written) outlet->Schedule(shared_from_this());  // the service answers before it is asked
}

ServerCall::Unsent ServerCall::Detach() {
  stream_ = nullptr;
  std::shared_ptr<Outlet> outlet;  // outlives the lock
  MutexLock lock(mutex_);
  outlet.swap(outlet_);
  over_ = true;
  const Unsent unsent = {.bytes = waiting_.size(), .dropped = dropped_, .ended = end_.has_value()};
  std::string().swap(waiting_);
  return unsent;
}

ServerCall::Unsent ServerCall::unsent() {
  MutexLock lock(mutex_);
  return {.bytes = waiting_.size(), .dropped = dropped_, .ended = end_.has_value()};
}

ServerCall::Unsent ServerCall::TakeTurn() {
  MutexLock lock(mutex_);
  scheduled_ = false;
  return {.bytes = waiting_.size(), .dropped = dropped_, .ended = end_.has_value()};
}

bool ServerCall::NextBytes(std::string* sent) {
  constexpr size_t kMostKept = 64 << 10;  // by a call that sends nothing
  if (sent->capacity() > kMostKept) std::string().swap(*sent);
  sent->clear();
  MutexLock lock(mutex_);
  sent->swap(waiting_);
  being_sent_ = sent->size();
  last_message_ = 0;
  return end_.has_value();
}

bool ServerCall::ended() {
  MutexLock lock(mutex_);
  return end_.has_value();
}

absl::Status ServerCall::status() {
  MutexLock lock(mutex_);
  return end_.value_or(absl::OkStatus());
}

}  // namespace conclave::h2

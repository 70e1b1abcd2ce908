// A gRPC server reactor that streams protobuf messages pushed from any thread, as QueuedWriter, and
// that may put those that wait for the stream into one: with many small messages most of the cost
// is gRPC's for each of them.
//
// Base is grpc::ServerBidiReactor of grpc::ByteBuffer. Keeps itself alive until gRPC is done with
// the call. Every method is thread-safe; none blocks.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <deque>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "google/protobuf/message_lite.h"
#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/status.h"
#include "shared/base/mutex.h"
#include "shared/rpc/queued_writer.h"

namespace conclave::rpc {

// A message that others are put into has no more of them beyond this.
inline constexpr size_t kMostGatheredBytes = 64 << 10;

template <typename Base>
class GatheringWriter : public Base, public std::enable_shared_from_this<GatheringWriter<Base>> {
 public:
  // Call once, right after make_shared.
  void KeepAlive() { self_ = this->shared_from_this(); }

  // From now on messages that wait are put into the first of them as field `number`, which its type
  // has as a repeated field of messages of the same type.
  void GatherAs(int number) EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    tag_ = static_cast<uint32_t>(number) << 3 | kLengthDelimited;
  }
  // Between these two, nothing is written. They nest.
  void Hold() EXCLUDES(mutex_) {
    MutexLock lock(mutex_);
    ++holds_;
  }
  void Release() EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      --holds_;
    }
    Advance();
  }

  // False when the call is over or the client too far behind (the call then ends with
  // RESOURCE_EXHAUSTED).
  bool Push(const google::protobuf::MessageLite& message) EXCLUDES(mutex_) {
    const size_t bytes = message.ByteSizeLong();
    bool overflow = false;
    {
      MutexLock lock(mutex_);
      if (end_) return false;
      overflow = unsent_bytes_ + bytes > kMaxUnsentBytes && unsent_bytes_ > 0;
      if (!overflow) {
        unsent_bytes_ += bytes;
        const bool joins =
            tag_ != 0 && !waiting_.empty() && waiting_.back().size() + bytes <= kMostGatheredBytes;
        if (joins) {
          AppendVarint(tag_, &waiting_.back());
          AppendVarint(bytes, &waiting_.back());
        } else {
          waiting_.emplace_back();
        }
        message.AppendToString(&waiting_.back());
      }
    }
    if (overflow) {
      Abort(grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "the client reads too slowly"));
      return false;
    }
    Advance();
    return true;
  }

  // Ends the call after what was pushed. Later calls have no effect.
  void End(const grpc::Status& status) EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      if (end_) return;
      end_ = status;
    }
    Advance();
  }

  // Ends the call and drops what has not been written.
  void Abort(const grpc::Status& status) EXCLUDES(mutex_) {
    {
      MutexLock lock(mutex_);
      waiting_.clear();
      if (end_) return;
      end_ = status;
    }
    Advance();
  }

  void OnWriteDone(bool ok) override {
    {
      MutexLock lock(mutex_);
      writing_ = false;
      unsent_bytes_ -= std::min(unsent_bytes_, writing_bytes_);
      if (!ok) waiting_.clear();  // the call was cancelled: OnCancel ends it
    }
    Advance();
  }

  void OnDone() override { self_.reset(); }  // may destroy this

 private:
  static constexpr uint32_t kLengthDelimited = 2;

  static void AppendVarint(uint64_t value, std::string* bytes) {
    for (; value >= 0x80; value >>= 7) bytes->push_back(static_cast<char>(value | 0x80));
    bytes->push_back(static_cast<char>(value));
  }

  // Writes what waits, or ends the call, if it is time.
  void Advance() EXCLUDES(mutex_) {
    std::optional<grpc::Status> end;
    {
      MutexLock lock(mutex_);
      if (writing_ || finished_) return;
      if (!waiting_.empty()) {
        if (holds_ > 0) return;
        const grpc::Slice slice(waiting_.front());
        outgoing_ = grpc::ByteBuffer(&slice, 1);
        writing_bytes_ = waiting_.front().size();
        waiting_.pop_front();
        writing_ = true;
      } else if (end_) {
        finished_ = true;
        end = end_;
      } else {
        return;
      }
    }
    if (end) {
      this->Finish(*end);
    } else {
      this->StartWrite(&outgoing_);
    }
  }

  std::shared_ptr<GatheringWriter> self_;
  Mutex mutex_;
  uint32_t tag_ GUARDED_BY(mutex_) = 0;  // 0: every message goes alone
  int32_t holds_ GUARDED_BY(mutex_) = 0;
  std::deque<std::string> waiting_ GUARDED_BY(mutex_);
  grpc::ByteBuffer outgoing_;  // changed only while nothing is written
  bool writing_ GUARDED_BY(mutex_) = false;
  size_t writing_bytes_ GUARDED_BY(mutex_) = 0;
  size_t unsent_bytes_ GUARDED_BY(mutex_) = 0;
  std::optional<grpc::Status> end_ GUARDED_BY(mutex_);
  bool finished_ GUARDED_BY(mutex_) = false;
};

}  // namespace conclave::rpc

// A reactor of gRPC's own server that streams messages: one write at a time, one end.
//
// Base is grpc::ServerBidiReactor of grpc::ByteBuffer. Keeps itself alive until gRPC is done with
// the call. Every method is thread-safe; none blocks.
#pragma once

#include <deque>
#include <memory>
#include <optional>
#include <utility>

#include "grpcpp/support/byte_buffer.h"
#include "grpcpp/support/status.h"
#include "shared/base/mutex.h"

namespace conclave::cli {

template <typename Base>
class QueuedWriter : public Base, public std::enable_shared_from_this<QueuedWriter<Base>> {
 public:
  // Call once, right after make_shared.
  void KeepAlive() { self_ = this->shared_from_this(); }

  // Without effect when the call is over.
  void Push(grpc::ByteBuffer message) EXCLUDES(mutex_) {
    const grpc::ByteBuffer* first = nullptr;
    {
      MutexLock lock(mutex_);
      if (end_) return;
      unsent_.push_back(std::move(message));
      if (unsent_.size() == 1) first = &unsent_.front();
    }
    if (first) this->StartWrite(first);
  }

  // Ends the call after what was pushed. Later calls have no effect.
  void End(const grpc::Status& status) EXCLUDES(mutex_) {
    bool finish = false;
    {
      MutexLock lock(mutex_);
      if (end_) return;
      end_ = status;
      finish = unsent_.empty();
    }
    if (finish) this->Finish(status);
  }

  // Ends the call and drops what has not been written.
  void Abort(const grpc::Status& status) EXCLUDES(mutex_) {
    bool finish = false;
    {
      MutexLock lock(mutex_);
      if (unsent_.size() > 1)
        unsent_.erase(unsent_.begin() + 1, unsent_.end());  // the first is being written
      if (end_) return;
      end_ = status;
      finish = unsent_.empty();
    }
    if (finish) this->Finish(status);
  }

  void OnWriteDone(bool ok) override {
    const grpc::ByteBuffer* next = nullptr;
    std::optional<grpc::Status> end;
    {
      MutexLock lock(mutex_);
      unsent_.pop_front();
      if (!ok) {
        unsent_.clear();
        const bool ended = end_.has_value();
        if (!ended) return;  // the call was cancelled: OnCancel ends it
      }
      if (!unsent_.empty()) {
        next = &unsent_.front();
      } else {
        end = end_;
      }
    }
    if (next) this->StartWrite(next);
    if (end) this->Finish(*end);
  }

  void OnDone() override { self_.reset(); }  // may destroy this

 private:
  std::shared_ptr<QueuedWriter> self_;
  Mutex mutex_;
  std::deque<grpc::ByteBuffer> unsent_ GUARDED_BY(mutex_);  // the first is being written
  std::optional<grpc::Status> end_ GUARDED_BY(mutex_);
};

}  // namespace conclave::cli

// How calls tell their connection that they have something to send, from any thread: it is woken
// once for all that has come until then.
//
// Shared by a connection and its calls, which may outlive it.
#pragma once

#include <functional>
#include <iterator>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "shared/base/mutex.h"
#include "shared/h2/server_call.h"
#include "shared/net/asio.h"

namespace conclave::h2 {

class Outlet {
 public:
  using Calls = std::vector<std::shared_ptr<ServerCall>>;

  // Made on the I/O thread. `wake` is called there, soon after something was scheduled.
  Outlet(std::shared_ptr<boost::asio::io_context> io, std::function<void()> wake)
      : io_(std::move(io)), wake_(std::make_shared<std::function<void()>>(std::move(wake))) {}

  void Schedule(std::shared_ptr<ServerCall> call) EXCLUDES(mutex_) {
    if (attended_here()) {
      near_.push_back(std::move(call));
      return;
    }
    MutexLock lock(mutex_);
    if (closed_) return;
    far_.push_back(std::move(call));
    if (far_.size() == 1) PostWake();
  }

  // The rest is the connection's, on the I/O thread.

  // While attended, nobody needs to be woken for what is scheduled there: Take follows.
  void Attend(bool attended) EXCLUDES(mutex_) {
    attended_ = attended;
    if (attended || near_.empty()) return;
    MutexLock lock(mutex_);
    if (!closed_) PostWake();
  }

  // The connection is woken for something else that is to be sent.
  void Wake() EXCLUDES(mutex_) {
    if (attended_) return;
    MutexLock lock(mutex_);
    if (!closed_) PostWake();
  }

  // All that is scheduled, in no order.
  Calls Take() EXCLUDES(mutex_) {
    Calls calls = std::exchange(near_, {});
    MutexLock lock(mutex_);
    if (calls.empty()) {
      calls.swap(far_);
    } else {
      std::move(far_.begin(), far_.end(), std::back_inserter(calls));
      far_.clear();
    }
    return calls;
  }

  // Nothing is taken any more.
  void Close() EXCLUDES(mutex_) {
    const Calls dropped = Take();
    MutexLock lock(mutex_);
    closed_ = true;
    wake_.reset();
  }

 private:
  bool attended_here() const { return std::this_thread::get_id() == thread_ && attended_; }
  void PostWake() REQUIRES(mutex_) {
    boost::asio::post(*io_, [weak = std::weak_ptr(wake_)] {
      if (const auto wake = weak.lock()) (*wake)();
    });
  }

  const std::shared_ptr<boost::asio::io_context> io_;
  const std::thread::id thread_ = std::this_thread::get_id();
  bool attended_ = false;  // this and the next: I/O thread only
  Calls near_;

  Mutex mutex_;
  std::shared_ptr<std::function<void()>> wake_ GUARDED_BY(mutex_);
  Calls far_ GUARDED_BY(mutex_);
  bool closed_ GUARDED_BY(mutex_) = false;
};

}  // namespace conclave::h2

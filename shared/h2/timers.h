// What is to be done at some time, on one I/O thread: many deadlines on one timer of the system.
//
// Used on that thread alone.
#pragma once

#include <functional>
#include <map>
#include <memory>

#include "shared/base/clock.h"
#include "shared/net/asio.h"

namespace conclave::h2 {

class Timers {
 public:
  explicit Timers(boost::asio::io_context* io) : timer_(*io) {}

  // One task. Unset by Cancel, and before the task runs.
  class Handle {
   public:
    Handle() = default;
    ~Handle() { Cancel(); }
    Handle(const Handle&) = delete;
    Handle& operator=(const Handle&) = delete;
    void Cancel();
    bool set() const { return timers_ != nullptr; }

   private:
    friend class Timers;
    Timers* timers_ = nullptr;
    std::multimap<TimePoint, Handle*>::iterator at_;
    std::function<void()> task_;
  };

  // Runs `task` at `when`, unless the handle is cancelled, set again or destroyed before. Handles
  // do not outlive this.
  void Set(Handle* handle, TimePoint when, std::function<void()> task);

 private:
  void Arm();
  void RunDue();

  boost::asio::steady_timer timer_;
  TimePoint armed_ = TimePoint::max();
  std::multimap<TimePoint, Handle*> tasks_;
};

}  // namespace conclave::h2

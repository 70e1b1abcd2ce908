#include "shared/h2/timers.h"

#include <utility>

namespace conclave::h2 {

void Timers::Handle::Cancel() {
  if (!timers_) return;
  timers_->tasks_.erase(at_);
  timers_ = nullptr;
  task_ = nullptr;
}

void Timers::Set(Handle* handle, TimePoint when, std::function<void()> task) {
  handle->Cancel();
  handle->at_ = tasks_.emplace(when, handle);
  handle->timers_ = this;
  handle->task_ = std::move(task);
  Arm();
}

// The system's timer may ring too early, after its task was cancelled, but never too late.
void Timers::Arm() {
  if (tasks_.empty() || tasks_.begin()->first >= armed_) return;
  armed_ = tasks_.begin()->first;
  timer_.expires_at(armed_);
  timer_.async_wait([this](const boost::system::error_code& error) {
    if (error) return;
    armed_ = TimePoint::max();
    RunDue();
  });
}

void Timers::RunDue() {
  const TimePoint now = std::chrono::steady_clock::now();
  while (!tasks_.empty() && tasks_.begin()->first <= now) {
    Handle* const due = tasks_.begin()->second;
    const std::function<void()> task = std::move(due->task_);
    due->Cancel();
    task();
  }
  Arm();
}

}  // namespace conclave::h2

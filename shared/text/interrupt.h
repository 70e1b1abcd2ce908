// The end of someone's patience with a piece of work: a deadline, a cancellation from another
// thread, or neither.
//
// The worker asks now and then, whoever waits says cancel; thread-safe. Standard library only: the
// Rust bridge compiles against it.
#pragma once

#include <atomic>
#include <chrono>
#include <optional>

namespace conclave::text {

class Interrupt {
 public:
  enum class Reason { kNone, kCancelled, kDeadline };

  Interrupt() = default;
  explicit Interrupt(std::optional<std::chrono::steady_clock::time_point> deadline)
      : deadline_(deadline) {}
  Interrupt(const Interrupt&) = delete;
  Interrupt& operator=(const Interrupt&) = delete;

  void Cancel() noexcept { cancelled_.store(true, std::memory_order_relaxed); }

  Reason reason() const noexcept {
    if (cancelled_.load(std::memory_order_relaxed)) return Reason::kCancelled;
    if (deadline_ && std::chrono::steady_clock::now() >= *deadline_) return Reason::kDeadline;
    return Reason::kNone;
  }
  bool interrupted() const noexcept { return reason() != Reason::kNone; }

 private:
  const std::optional<std::chrono::steady_clock::time_point> deadline_;
  std::atomic<bool> cancelled_{false};
};

}  // namespace conclave::text

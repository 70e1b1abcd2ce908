// Work for prompt lanes that tests hold and wait for.
#pragma once

#include <atomic>
#include <chrono>
#include <future>
#include <memory>
#include <optional>
#include <thread>

#include "services/gateway/prompt_lane.h"
#include "shared/base/clock.h"

namespace conclave::gateway {

// Holds one of a lane's threads from its construction on until told to let go.
template <typename Lane>
class Blocker {
 public:
  Blocker(Lane* lane, size_t bytes) {
    lane->Run({.bytes = bytes, .interrupt = interrupt, .run = [this](const absl::Status&) {
                 begun_.set_value();
                 while (!released_ && !interrupt->interrupted()) std::this_thread::yield();
               }});
    begun_.get_future().wait();
  }
  void Release() { released_ = true; }

  const std::shared_ptr<text::Interrupt> interrupt = std::make_shared<text::Interrupt>();

 private:
  std::promise<void> begun_;
  std::atomic<bool> released_{false};
};

// A piece of work whose outcome can be waited for.
struct Waiting {
  explicit Waiting(size_t bytes, std::optional<TimePoint> deadline = std::nullopt)
      : interrupt(std::make_shared<text::Interrupt>(deadline)) {
    work = {.bytes = bytes, .interrupt = interrupt, .run = [this](const absl::Status& status) {
              thread = std::this_thread::get_id();
              outcome.set_value(status);
            }};
  }
  absl::Status Outcome() {
    std::future<absl::Status> future = outcome.get_future();
    if (future.wait_for(std::chrono::seconds(10)) != std::future_status::ready) {
      return absl::UnknownError("nothing came");
    }
    return future.get();
  }

  const std::shared_ptr<text::Interrupt> interrupt;
  std::promise<absl::Status> outcome;
  std::thread::id thread;
  PromptLane::Work work;
};

}  // namespace conclave::gateway

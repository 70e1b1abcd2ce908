#include "services/engine/dispatch/link_inbox.h"

#include <algorithm>
#include <utility>

namespace conclave::engine {

bool LinkInbox::TryPush(LinkEvent event) {
  const bool pushed = events_.TryPush(std::move(event));
  doorbell_->Ring();
  return pushed;
}

std::optional<LinkEvent> LinkInbox::PopFor(Duration timeout) {
  const TimePoint deadline = std::chrono::steady_clock::now() + timeout;
  while (true) {
    const uint32_t seen = doorbell_->Look();
    PollSources();
    if (std::optional<LinkEvent> event = events_.TryPop()) return event;
    const TimePoint now = std::chrono::steady_clock::now();
    if (now >= deadline) return std::nullopt;
    doorbell_->Wait(seen, deadline - now);
  }
}

void LinkInbox::PollSources() {
  {
    MutexLock lock(mutex_);
    polled_ = sources_;
  }
  for (const auto& source : polled_) source->Poll();
  polled_.clear();
}

void LinkInbox::Add(std::shared_ptr<LinkSource> source) {
  {
    MutexLock lock(mutex_);
    sources_.push_back(std::move(source));
  }
  doorbell_->Ring();
}

void LinkInbox::Remove(const LinkSource* source) {
  std::shared_ptr<LinkSource> removed;  // destroyed after the lock
  MutexLock lock(mutex_);
  const auto at = std::find_if(sources_.begin(), sources_.end(),
                               [source](const auto& entry) { return entry.get() == source; });
  if (at == sources_.end()) return;
  removed = std::move(*at);
  sources_.erase(at);
}

}  // namespace conclave::engine

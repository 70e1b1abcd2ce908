#include "services/cli/restart_policy.h"

#include <algorithm>

namespace conclave::cli {
namespace {

constexpr Duration kMinute = std::chrono::seconds(60);

}  // namespace

void RestartPolicy::Forget(TimePoint now) {
  while (!restarts_.empty() && now - restarts_.front() >= kMinute) restarts_.pop_front();
}

Duration RestartPolicy::DelayAfterDeath(TimePoint now) {
  Forget(now);
  Duration delay = kFirstDelay;
  for (size_t i = 0; i < restarts_.size(); ++i) delay = std::min(2 * delay, kMostDelay);
  if (restarts_.size() >= kMostPerMinute) {
    const TimePoint oldest = restarts_[restarts_.size() - kMostPerMinute];
    delay = std::max(delay, oldest + kMinute - now);
  }
  return delay;
}

bool RestartPolicy::Exhausted(TimePoint now) {
  Forget(now);
  return restarts_.size() >= kMostPerMinute;
}

int RestartPolicy::Restarted(TimePoint now) {
  Forget(now);
  restarts_.push_back(now);
  return static_cast<int>(restarts_.size());
}

}  // namespace conclave::cli

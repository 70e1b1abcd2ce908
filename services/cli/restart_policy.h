// When a dead process is started again: after a quarter, half, one, ... second(s), and at most five
// times a minute. Pure: takes the time.
#pragma once

#include <deque>

#include "shared/base/clock.h"

namespace conclave::cli {

// Of one process.
class RestartPolicy {
 public:
  static constexpr int kMostPerMinute = 5;
  // A request waits two seconds for an expert without a worker: the first restarts come soon enough
  // to save it.
  static constexpr Duration kFirstDelay = std::chrono::milliseconds(250);
  static constexpr Duration kMostDelay = std::chrono::seconds(30);

  // The process died now: how long to wait before the next start.
  Duration DelayAfterDeath(TimePoint now);

  // It was restarted as often as a minute allows.
  bool Exhausted(TimePoint now);

  // The process was started again now. Returns how many restarts the last minute holds, this one
  // included.
  int Restarted(TimePoint now);

 private:
  void Forget(TimePoint now);

  std::deque<TimePoint> restarts_;  // of the last minute, oldest first
};

}  // namespace conclave::cli

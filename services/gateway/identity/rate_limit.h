// A key's requests and tokens per minute, and what it has left.
//
// Two buckets that fill at the limit's pace and hold a minute's worth. A request is taken when it
// comes; tokens are taken as they are used, so that the token bucket may fall below zero: then
// requests are refused until it has filled again. Thread-safe.
#pragma once

#include <cstdint>

#include "absl/status/status.h"
#include "shared/base/clock.h"
#include "shared/base/mutex.h"

namespace conclave::gateway {

class RateLimit {
 public:
  // 0: no limit.
  RateLimit(int64_t requests_per_minute, int64_t tokens_per_minute, TimePoint now);

  // RESOURCE_EXHAUSTED with a retry delay (reason RATE_LIMITED, saying which limit) when the key
  // has no request, or no token, left.
  absl::Status TakeRequest(TimePoint now) EXCLUDES(mutex_);
  void UseTokens(int64_t tokens, TimePoint now) EXCLUDES(mutex_);
  // New limits: what is left stays in proportion.
  void SetLimits(int64_t requests_per_minute, int64_t tokens_per_minute, TimePoint now)
      EXCLUDES(mutex_);

  // For the x-ratelimit headers.
  struct State {
    int64_t limit = 0;      // 0: none
    int64_t remaining = 0;  // never below 0
    Duration until_full{0};
  };
  State requests(TimePoint now) const EXCLUDES(mutex_);
  State tokens(TimePoint now) const EXCLUDES(mutex_);

 private:
  struct Bucket {
    double limit = 0;  // a minute
    double left = 0;
    TimePoint filled;

    void Fill(TimePoint now);
    // Until one whole is there.
    Duration UntilOne() const;
    State state(TimePoint now) const;
    void SetLimit(int64_t new_limit, TimePoint now);
  };

  mutable Mutex mutex_;
  Bucket requests_ GUARDED_BY(mutex_);
  Bucket tokens_ GUARDED_BY(mutex_);
};

}  // namespace conclave::gateway

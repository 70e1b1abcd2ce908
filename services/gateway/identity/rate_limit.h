// A key's requests and tokens per minute, and what it has left.
//
// Two buckets that fill at the limit's pace and hold a minute's worth. A request is taken when it
// comes, and with it the tokens that it may cost; what it has not used of them comes back at its
// end. One that has used more leaves the bucket below zero: then requests are refused until it has
// filled again. Thread-safe.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
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
  // Takes what a request may cost, and says how much that was: no more than a full bucket, so that
  // a costly request goes when nothing else does. RESOURCE_EXHAUSTED as TakeRequest when less is
  // left.
  absl::StatusOr<int64_t> ReserveTokens(int64_t tokens, TimePoint now) EXCLUDES(mutex_);
  // A request that `reserved` were taken for has used `used`. Whatever it was, the bucket has
  // filled again kMostDebtMinutes later.
  void SettleTokens(int64_t reserved, int64_t used, TimePoint now) EXCLUDES(mutex_);
  // A request that `reserved` were taken for never ran.
  void GiveBackTokens(int64_t reserved) EXCLUDES(mutex_);
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
    Duration Until(double amount) const;
    State state(TimePoint now) const;
    void SetLimit(int64_t new_limit, TimePoint now);
  };

  mutable Mutex mutex_;
  Bucket requests_ GUARDED_BY(mutex_);
  Bucket tokens_ GUARDED_BY(mutex_);
};

// The longest time in which a key pays off answers that were longer than expected.
inline constexpr int kMostDebtMinutes = 10;

// The tokens taken for one request. Destroyed without a word, it gives them all back: the request
// never ran. Its owner is one thread at a time.
class TokenReservation {
 public:
  // Errors as RateLimit::ReserveTokens.
  static absl::StatusOr<std::shared_ptr<TokenReservation>> Make(std::shared_ptr<RateLimit> limit,
                                                                int64_t tokens, TimePoint now);
  ~TokenReservation();
  TokenReservation(const TokenReservation&) = delete;
  TokenReservation& operator=(const TokenReservation&) = delete;

  // The request has ended, and has used so many. The first call counts.
  void Settle(int64_t used, TimePoint now);

 private:
  TokenReservation(std::shared_ptr<RateLimit> limit, int64_t reserved)
      : limit_(std::move(limit)), reserved_(reserved) {}

  std::shared_ptr<RateLimit> limit_;  // null: settled
  const int64_t reserved_;
};

}  // namespace conclave::gateway

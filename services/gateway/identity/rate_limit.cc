#include "services/gateway/identity/rate_limit.h"

#include <algorithm>
#include <chrono>
#include <cmath>

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

constexpr double kMinuteSeconds = 60;

Duration FromSeconds(double seconds) {
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

absl::Status Exceeded(const char* what, const std::string& message, Duration wait) {
  const int64_t ms =
      std::max<int64_t>(1, std::chrono::duration_cast<std::chrono::milliseconds>(wait).count() + 1);
  return rpc::WithDetails(
      absl::ResourceExhaustedError(absl::StrCat(message, "; try again in ", ms, " ms")),
      {.reason = "RATE_LIMITED",
       .metadata = {{"limit", absl::StrCat(what, "_per_minute")}},
       .retry_after_ms = ms,
       .fields = {}});
}

std::string Reached(const char* what, double limit) {
  return absl::StrCat("this key's limit of ", limit, " ", what, " a minute is reached");
}

}  // namespace

RateLimit::RateLimit(int64_t requests_per_minute, int64_t tokens_per_minute, TimePoint now) {
  const auto full = [now](int64_t limit) {
    return Bucket{
        .limit = static_cast<double>(limit), .left = static_cast<double>(limit), .filled = now};
  };
  requests_ = full(requests_per_minute);
  tokens_ = full(tokens_per_minute);
}

absl::Status RateLimit::TakeRequest(TimePoint now) {
  MutexLock lock(mutex_);
  requests_.Fill(now);
  tokens_.Fill(now);
  if (tokens_.limit > 0 && tokens_.left < 1) {
    return Exceeded("tokens", Reached("tokens", tokens_.limit), tokens_.Until(1));
  }
  if (requests_.limit > 0 && requests_.left < 1) {
    return Exceeded("requests", Reached("requests", requests_.limit), requests_.Until(1));
  }
  requests_.left -= 1;
  return absl::OkStatus();
}

absl::StatusOr<int64_t> RateLimit::ReserveTokens(int64_t tokens, TimePoint now) {
  MutexLock lock(mutex_);
  if (tokens_.limit <= 0) return 0;
  tokens_.Fill(now);
  const int64_t wanted = std::min(tokens, static_cast<int64_t>(tokens_.limit));
  if (tokens_.left < static_cast<double>(wanted)) {
    return Exceeded(
        "tokens",
        absl::StrCat("this request may cost ", tokens,
                     " tokens with its prompt and max_tokens, and of this key's ", tokens_.limit,
                     " tokens a minute ", std::max<int64_t>(0, static_cast<int64_t>(tokens_.left)),
                     " are left; lower max_tokens, or wait"),
        tokens_.Until(static_cast<double>(wanted)));
  }
  tokens_.left -= static_cast<double>(wanted);
  return wanted;
}

void RateLimit::SettleTokens(int64_t reserved, int64_t used, TimePoint now) {
  MutexLock lock(mutex_);
  tokens_.Fill(now);
  tokens_.left = std::clamp(tokens_.left + static_cast<double>(reserved - used),
                            -(kMostDebtMinutes - 1) * tokens_.limit, tokens_.limit);
}

void RateLimit::GiveBackTokens(int64_t reserved) {
  MutexLock lock(mutex_);
  tokens_.left = std::min(tokens_.limit, tokens_.left + static_cast<double>(reserved));
}

void RateLimit::SetLimits(int64_t requests_per_minute, int64_t tokens_per_minute, TimePoint now) {
  MutexLock lock(mutex_);
  requests_.SetLimit(requests_per_minute, now);
  tokens_.SetLimit(tokens_per_minute, now);
}

RateLimit::State RateLimit::requests(TimePoint now) const {
  MutexLock lock(mutex_);
  return requests_.state(now);
}

RateLimit::State RateLimit::tokens(TimePoint now) const {
  MutexLock lock(mutex_);
  return tokens_.state(now);
}

void RateLimit::Bucket::Fill(TimePoint now) {
  if (now <= filled) return;
  const double seconds = std::chrono::duration<double>(now - filled).count();
  left = std::min(limit, left + limit * seconds / kMinuteSeconds);
  filled = now;
}

Duration RateLimit::Bucket::Until(double amount) const {
  return FromSeconds(std::max(0.0, amount - left) * kMinuteSeconds / limit);
}

RateLimit::State RateLimit::Bucket::state(TimePoint now) const {
  Bucket filled_up = *this;
  filled_up.Fill(now);
  if (limit <= 0) return {};
  return {.limit = static_cast<int64_t>(limit),
          .remaining = std::max<int64_t>(0, static_cast<int64_t>(std::floor(filled_up.left))),
          .until_full = FromSeconds((limit - filled_up.left) * kMinuteSeconds / limit)};
}

void RateLimit::Bucket::SetLimit(int64_t new_limit, TimePoint now) {
  Fill(now);
  const auto next = static_cast<double>(new_limit);
  left = limit > 0 ? left * next / limit : next;
  limit = next;
}

absl::StatusOr<std::shared_ptr<TokenReservation>> TokenReservation::Make(
    std::shared_ptr<RateLimit> limit, int64_t tokens, TimePoint now) {
  ASSIGN_OR_RETURN(const int64_t reserved, limit->ReserveTokens(tokens, now));
  return std::shared_ptr<TokenReservation>(new TokenReservation(std::move(limit), reserved));
}

TokenReservation::~TokenReservation() {
  if (limit_) limit_->GiveBackTokens(reserved_);
}

void TokenReservation::Settle(int64_t used, TimePoint now) {
  if (const std::shared_ptr<RateLimit> limit = std::exchange(limit_, nullptr)) {
    limit->SettleTokens(reserved_, used, now);
  }
}

}  // namespace conclave::gateway

#include "services/gateway/qos/wait_estimate.h"

#include <algorithm>
#include <chrono>
#include <cmath>

namespace conclave::gateway {

namespace {

// What lies so long back counts a third.
constexpr double kMemorySeconds = 5;
// The weight of one more answer, or one more first token, in its mean.
constexpr double kSampleWeight = 0.05;
constexpr double kFirstGuessTokens = 128;
constexpr auto kIdleMemory = std::chrono::seconds(1);
constexpr auto kSampleMemory = std::chrono::seconds(5);

double Seconds(Duration duration) { return std::chrono::duration<double>(duration).count(); }

void Blend(std::optional<double>* mean, double sample, double weight) {
  *mean = mean->has_value() ? **mean + weight * (sample - **mean) : sample;
}

}  // namespace

void WaitEstimate::FirstToken(Duration took) {
  sampled_ = true;
  Blend(&first_token_seconds_, Seconds(took), kSampleWeight);
}

void WaitEstimate::Answered(double tokens, std::optional<Duration> since_first) {
  sampled_ = true;
  Blend(&answer_tokens_, tokens, kSampleWeight);
  if (since_first && tokens > 1) {
    const double sample = Seconds(*since_first) / (tokens - 1);
    Blend(&seconds_per_token_, sample, kSampleWeight);
    Blend(&deviation_, std::abs(sample - *seconds_per_token_), kSampleWeight);
  }
}

Duration WaitEstimate::AfterFirstToken(double max_tokens) const {
  const double tokens = std::max(0.0, ExpectedTokens(max_tokens) - 1);
  const double seconds = tokens * (seconds_per_token_.value_or(0) + 2 * deviation_.value_or(0));
  return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
}

void WaitEstimate::Tick(TimePoint now, bool requests_wait) {
  if (last_tick_ && now > *last_tick_ && waited_ && requests_wait) {
    const double seconds = Seconds(now - *last_tick_);
    Blend(&tokens_per_second_, tokens_ / seconds, 1 - std::exp(-seconds / kMemorySeconds));
  }
  if (requests_wait) {
    last_wait_ = now;
  } else if (now - last_wait_ >= kIdleMemory) {
    tokens_per_second_.reset();  // of requests that are long over
  }
  if (sampled_) {
    last_sample_ = now;
  } else if (now - last_sample_ >= kSampleMemory) {
    // Whoever is refused because of them measures nothing: they would hold for ever.
    first_token_seconds_.reset();
    seconds_per_token_.reset();
    deviation_.reset();
  }
  sampled_ = false;
  last_tick_ = now;
  waited_ = requests_wait;
  tokens_ = 0;
}

std::optional<Duration> WaitEstimate::UntilFirstToken(double tokens_ahead) const {
  if (!tokens_per_second_ || *tokens_per_second_ <= 0) return std::nullopt;
  const double seconds = tokens_ahead / *tokens_per_second_ + first_token_seconds_.value_or(0);
  constexpr double kMost = 24 * 3600;
  return std::chrono::duration_cast<Duration>(
      std::chrono::duration<double>(std::min(seconds, kMost)));
}

WaitEstimate::Answer WaitEstimate::UsualAnswer(double max_tokens) const {
  const auto duration = [](double seconds) {
    return std::chrono::duration_cast<Duration>(std::chrono::duration<double>(seconds));
  };
  const double tokens = std::max(0.0, ExpectedTokens(max_tokens) - 1);
  return {.until_first = duration(first_token_seconds_.value_or(0)),
          .after_first = duration(tokens * seconds_per_token_.value_or(0))};
}

Duration WaitEstimate::ToAnswer(double max_tokens) const {
  return AfterFirstToken(max_tokens) +
         std::chrono::duration_cast<Duration>(
             std::chrono::duration<double>(first_token_seconds_.value_or(0)));
}

double WaitEstimate::ExpectedTokens(double max_tokens) const {
  return std::min(max_tokens, answer_tokens_.value_or(kFirstGuessTokens));
}

}  // namespace conclave::gateway

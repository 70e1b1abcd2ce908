// How fast the engines work off what waits, and so how long a newcomer would wait for its first
// token.
//
// Pure; owned by the core thread.
#pragma once

#include <optional>

#include "shared/base/clock.h"

namespace conclave::gateway {

class WaitEstimate {
 public:
  // Tokens of prompts and answers that engines have computed.
  void Computed(double tokens) { tokens_ += tokens; }
  // From the start on an engine to the first token.
  void FirstToken(Duration took);
  // A choice has ended with so many tokens, so long after its first one; nullopt: its client has
  // set its pace.
  void Answered(double tokens, std::optional<Duration> since_first);
  // Several times a second. Only while requests wait does the speed say what the engines can do.
  void Tick(TimePoint now, bool requests_wait);

  // Until the first token of a request that has `tokens_ahead` before it; nullopt: nothing has been
  // measured yet.
  std::optional<Duration> UntilFirstToken(double tokens_ahead) const;
  // From the first token of an answer of at most `max_tokens` to its end, as most take it: the mean
  // and twice the mean deviation. 0 as long as nothing has been measured.
  Duration AfterFirstToken(double max_tokens) const;
  // An answer of at most `max_tokens`, as it usually is: by the means. Zeros as long as nothing has
  // been measured, and again when no answer has come for some seconds.
  struct Answer {
    Duration until_first{0};  // from its start on an engine
    Duration after_first{0};
  };
  Answer UsualAnswer(double max_tokens) const;
  // Until the end of an answer as most take it, from its start on an engine.
  Duration ToAnswer(double max_tokens) const;
  // Tokens that an answer of at most `max_tokens` is likely to have.
  double ExpectedTokens(double max_tokens) const;

 private:
  double tokens_ = 0;     // since the last tick
  bool sampled_ = false;  // an answer or a first token, since the last tick
  TimePoint last_sample_;
  std::optional<TimePoint> last_tick_;
  TimePoint last_wait_;  // when requests last waited
  bool waited_ = false;  // requests, at the last tick
  std::optional<double> tokens_per_second_;
  std::optional<double> first_token_seconds_;
  std::optional<double> answer_tokens_;
  std::optional<double> seconds_per_token_;  // after the first
  std::optional<double> deviation_;          // of these
};

}  // namespace conclave::gateway

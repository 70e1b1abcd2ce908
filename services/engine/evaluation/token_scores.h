// How well logits predict a token, and how far they are from those of a reference: perplexity and
// KL divergence, computed in double. Pure.
#pragma once

#include <cstdint>
#include <span>

namespace conclave::engine {

// One predicted token.
struct TokenScore {
  double nll = 0;  // -log(p(token)), nats
  // Of the reference's logits; what is not finite in either shows in nll or reference_nll.
  double reference_nll = 0;
  double kl = 0;             // KL(reference || logits), nats, at least 0
  bool same_argmax = false;  // ties go to the lower id
};

// `token` is an id of both rows, which are of one length.
TokenScore ScoreToken(std::span<const float> logits, std::span<const float> reference,
                      int32_t token);
// Without a reference: the nll alone.
TokenScore ScoreToken(std::span<const float> logits, int32_t token);

struct ScoreSummary {
  int64_t tokens = 0;
  double perplexity = 0;  // exp(mean nll)
  // Against the reference.
  double reference_perplexity = 0;
  double perplexity_ratio = 0;  // perplexity / reference_perplexity
  double mean_kl = 0;           // nats a token
  double p99_kl = 0;            // the least that 99 % of the tokens do not exceed
  double same_argmax_ratio = 0;
};

// Sums in the order of the tokens. `scores` are not empty.
ScoreSummary Summarize(std::span<const TokenScore> scores);

}  // namespace conclave::engine

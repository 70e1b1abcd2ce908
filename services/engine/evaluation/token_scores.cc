#include "services/engine/evaluation/token_scores.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

#include "shared/base/check.h"

namespace conclave::engine {
namespace {

constexpr double kP99 = 0.99;

std::ptrdiff_t ArgMax(std::span<const float> logits) {
  return std::max_element(logits.begin(), logits.end()) - logits.begin();
}

// log(sum(exp(logits))), by way of the largest, so that nothing overflows.
double LogSumExp(std::span<const float> logits) {
  const double largest = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(double{logit} - largest);
  return largest + std::log(sum);
}

}  // namespace

TokenScore ScoreToken(std::span<const float> logits, std::span<const float> reference,
                      int32_t token) {
  CONCLAVE_CHECK(logits.size() == reference.size() && token >= 0 &&
                 static_cast<size_t>(token) < logits.size());
  const double log_sum = LogSumExp(logits);
  const double reference_log_sum = LogSumExp(reference);
  double kl = 0;
  for (size_t i = 0; i < logits.size(); ++i) {
    const double of_reference = double{reference[i]} - reference_log_sum;
    kl += std::exp(of_reference) * (of_reference - (double{logits[i]} - log_sum));
  }
  const auto at = static_cast<size_t>(token);
  return {.nll = log_sum - double{logits[at]},
          .reference_nll = reference_log_sum - double{reference[at]},
          .kl = std::max(0.0, kl),  // rounding may leave less than nothing
          .same_argmax = ArgMax(logits) == ArgMax(reference)};
}

TokenScore ScoreToken(std::span<const float> logits, int32_t token) {
  CONCLAVE_CHECK(token >= 0 && static_cast<size_t>(token) < logits.size());
  return {.nll = LogSumExp(logits) - double{logits[static_cast<size_t>(token)]}};
}

ScoreSummary Summarize(std::span<const TokenScore> scores) {
  CONCLAVE_CHECK(!scores.empty());
  const auto tokens = static_cast<double>(scores.size());
  double nll = 0, reference_nll = 0, kl = 0;
  int64_t same = 0;
  std::vector<double> kls;
  for (const TokenScore& score : scores) {
    nll += score.nll;
    reference_nll += score.reference_nll;
    kl += score.kl;
    same += score.same_argmax;
    kls.push_back(score.kl);
  }
  std::sort(kls.begin(), kls.end());
  const auto rank = static_cast<size_t>(std::ceil(kP99 * tokens));  // from 1
  return {.tokens = static_cast<int64_t>(scores.size()),
          .perplexity = std::exp(nll / tokens),
          .reference_perplexity = std::exp(reference_nll / tokens),
          .perplexity_ratio = std::exp((nll - reference_nll) / tokens),
          .mean_kl = kl / tokens,
          .p99_kl = kls[std::clamp<size_t>(rank, 1, kls.size()) - 1],
          .same_argmax_ratio = static_cast<double>(same) / tokens};
}

}  // namespace conclave::engine

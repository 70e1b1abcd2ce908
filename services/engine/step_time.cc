#include "services/engine/step_time.h"

#include <algorithm>
#include <cmath>

namespace conclave::engine {
namespace {

// The prior may be wrong by this factor.
constexpr double kPriorSpread = 4.0;
// How much a cost may drift from one step to the next, as a share of itself: half its value in
// about 1000 steps.
constexpr double kDrift = 0.015;
// Noise of one measured step: a share of it, and some microseconds of timer and wake-up.
constexpr double kNoiseShare = 0.1;
constexpr double kNoiseMs = 0.05;
// A surprise beyond this many standard deviations is a disturbed machine, and counts as this many.
constexpr double kMostDeviations = 3.0;
// Costs stay above this, so that a drift, which is a share, can raise them again.
constexpr double kLeastShareOfPrior = 1e-3;

}  // namespace

StepCosts GuessCosts(const ModelSize& size, double operations_a_second) {
  constexpr double kShareOfPeak = 0.4;
  const double operations_a_ms = 1e-3 * kShareOfPeak * operations_a_second;
  const double bytes_a_ms = 20e6;  // 20 GB/s
  StepCosts costs;
  costs.fixed_ms = 0.2 + size.dense_bytes / bytes_a_ms;
  costs.experts_ms = size.expert_bytes / bytes_a_ms;
  costs.expert_share = size.expert_share;
  costs.prefill_token_ms = 0.01 + size.active_parameters * 2 / operations_a_ms;
  costs.decode_row_ms = 0.05 + costs.prefill_token_ms;
  costs.context_token_ms = size.attention_width * 4 / operations_a_ms;
  return costs;
}

StepTimeModel::StepTimeModel(const StepCosts& prior)
    : expert_share_(prior.expert_share),
      costs_{prior.fixed_ms, prior.decode_row_ms, prior.prefill_token_ms, prior.context_token_ms,
             prior.experts_ms} {
  for (int i = 0; i < kTerms; ++i) {
    const double deviation = kPriorSpread * costs_[i];
    most_variance_[i] = deviation * deviation;
    covariance_[i][i] = most_variance_[i];
  }
}

StepTimeModel::Vector StepTimeModel::Terms(const StepShape& shape) const {
  const double rows = shape.decode_rows + shape.prefill_tokens;
  return {1.0, static_cast<double>(shape.decode_rows), static_cast<double>(shape.prefill_tokens),
          static_cast<double>(shape.context_tokens), 1 - std::pow(1 - expert_share_, rows)};
}

double StepTimeModel::PredictMs(const StepShape& shape) const {
  const Vector terms = Terms(shape);
  double sum = 0;
  for (int i = 0; i < kTerms; ++i) sum += costs_[i] * terms[i];
  return sum;
}

void StepTimeModel::Observe(const StepShape& shape, double measured_ms) {
  const Vector terms = Terms(shape);
  for (int i = 0; i < kTerms; ++i) {
    const double drift = kDrift * costs_[i];
    if (covariance_[i][i] + drift * drift <= most_variance_[i]) covariance_[i][i] += drift * drift;
  }
  Vector gain{};  // covariance * terms, later divided by the variance of the surprise
  double variance = 0;
  for (int i = 0; i < kTerms; ++i) {
    for (int j = 0; j < kTerms; ++j) gain[i] += covariance_[i][j] * terms[j];
    variance += terms[i] * gain[i];
  }
  const double predicted_ms = PredictMs(shape);
  const double noise = kNoiseShare * predicted_ms + kNoiseMs;
  variance += noise * noise;
  const double most = kMostDeviations * std::sqrt(variance);
  const double surprise = std::clamp(measured_ms - predicted_ms, -most, most);

  const Vector unscaled = gain;
  for (int i = 0; i < kTerms; ++i) {
    const double least = kLeastShareOfPrior * std::sqrt(most_variance_[i]) / kPriorSpread;
    costs_[i] = std::max(least, costs_[i] + unscaled[i] / variance * surprise);
  }
  for (int i = 0; i < kTerms; ++i) {
    for (int j = 0; j < kTerms; ++j) covariance_[i][j] -= unscaled[i] * unscaled[j] / variance;
  }
}

StepCosts StepTimeModel::costs() const {
  return {costs_[0], costs_[1], costs_[2], costs_[3], costs_[4], expert_share_};
}

}  // namespace conclave::engine

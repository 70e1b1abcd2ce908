// How long a step will take: linear models, corrected by every measured step.
//
// Used by the step thread alone; pure. A Kalman filter over four non-negative costs (R. E. Kalman,
// 1960; the costs do a slow random walk): costs that the recent steps do not reveal keep their
// estimate, and one slow step moves nothing far.
#pragma once

#include <array>
#include <cstdint>

namespace conclave::engine {

// What of a step takes time.
struct StepShape {
  int32_t decode_rows = 0;
  int32_t prefill_tokens = 0;
  int64_t context_tokens = 0;  // sum over all rows of the positions each attends to
};

struct StepCosts {
  double fixed_ms = 1;
  double decode_row_ms = 1;
  double prefill_token_ms = 0.2;
  double context_token_ms = 1e-5;
};

// A first guess from the weights that one token passes through and the cores at work: decode is
// bound by memory, prefill by arithmetic. Right within some factor; measured steps do the rest.
StepCosts GuessCosts(int64_t active_parameters, int64_t attention_width, int threads);

class StepTimeModel {
 public:
  explicit StepTimeModel(const StepCosts& prior);

  double PredictMs(const StepShape& shape) const;
  // Precondition: measured_ms > 0.
  void Observe(const StepShape& shape, double measured_ms);
  StepCosts costs() const;

 private:
  static constexpr int kTerms = 4;
  using Vector = std::array<double, kTerms>;

  static Vector Terms(const StepShape& shape);

  Vector costs_;
  Vector
      most_variance_;  // of each cost: what is not observed does not become more unknown than this
  std::array<Vector, kTerms> covariance_{};
};

// Steps of realtime rows alone have a model of their own. They are the smallest, and a line through
// steps of all sizes is furthest off there: the second row of a step costs more than the tenth
// (frames, other kernels), and what others may add to such a step is a share of what it takes
// alone.
struct StepTimes {
  explicit StepTimes(const StepCosts& prior) : any(prior), urgent(prior) {}

  StepTimeModel any;
  StepTimeModel urgent;
};

}  // namespace conclave::engine

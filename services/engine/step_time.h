// How long a step will take: linear models, corrected by every measured step.
//
// Used by the step thread alone; pure. A Kalman filter over five non-negative costs (R. E. Kalman,
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
  // Of reading all routed experts. A step reads those that some row chose: of n rows that choose
  // `expert_share` of them each, 1 - (1 - expert_share)^n.
  double experts_ms = 0;
  double expert_share = 0;  // known, not estimated
};

// What GuessCosts goes by.
struct ModelSize {
  double dense_bytes = 0;        // of the weights that every step reads
  double expert_bytes = 0;       // of all routed experts
  double expert_share = 0;       // of them, for one row
  double active_parameters = 0;  // multiplied for a row
  double attention_width = 0;    // multiply-adds for a row and a token that it attends to
};

// A first guess from what a step reads and multiplies. `operations_a_second`: of the threads
// together at their peak, a multiply-add being two. Right within some factor; measured steps do the
// rest.
StepCosts GuessCosts(const ModelSize& size, double operations_a_second);

class StepTimeModel {
 public:
  explicit StepTimeModel(const StepCosts& prior);

  double PredictMs(const StepShape& shape) const;
  // Precondition: measured_ms > 0.
  void Observe(const StepShape& shape, double measured_ms);
  StepCosts costs() const;

 private:
  static constexpr int kTerms = 5;
  using Vector = std::array<double, kTerms>;

  Vector Terms(const StepShape& shape) const;

  double expert_share_;
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

// How long a unit of work takes, learned from those before: a fixed time for each expert (its
// weights are read once) and a time for each row.
//
// Owned by the compute thread.
#pragma once

#include <cstdint>

namespace conclave::expert {

// Two-parameter least squares over the latest units; older ones fade.
class UnitRate {
 public:
  // A unit with rows of `num_experts` experts, `num_rows` in all, took `ns`.
  void Observe(int64_t num_experts, int64_t num_rows, double ns);

  double PredictNs(int64_t num_experts, int64_t num_rows) const {
    return ns_per_expert_ * static_cast<double>(num_experts) +
           ns_per_row_ * static_cast<double>(num_rows);
  }
  // How many rows of one more expert fit into `budget_ns`; 0 if not even its weights do.
  int64_t RowsWithin(double budget_ns) const;

 private:
  // Before the first observation: a middling expert on one core.
  double ns_per_expert_ = 100'000;
  double ns_per_row_ = 20'000;
  // Faded sums of experts^2, experts * rows, rows^2, experts * ns, rows * ns.
  double ee_ = 0, er_ = 0, rr_ = 0, et_ = 0, rt_ = 0;
};

}  // namespace conclave::expert

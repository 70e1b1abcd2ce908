#include "services/expert/unit_rate.h"

#include <algorithm>

namespace conclave::expert {
namespace {

// The weight of a unit halves after 69 later ones: at a millisecond each, the rate follows the
// machine within tenths of a second.
constexpr double kFade = 0.99;
constexpr double kLeastNs = 1;

}  // namespace

void UnitRate::Observe(int64_t num_experts, int64_t num_rows, double ns) {
  const double e = static_cast<double>(num_experts), r = static_cast<double>(num_rows);
  ee_ = ee_ * kFade + e * e;
  er_ = er_ * kFade + e * r;
  rr_ = rr_ * kFade + r * r;
  et_ = et_ * kFade + e * ns;
  rt_ = rt_ * kFade + r * ns;
  // When all units have the same rows per expert, the two times cannot be told apart; half each
  // then predicts them exactly.
  const double determinant = ee_ * rr_ - er_ * er_;
  if (determinant > 1e-6 * ee_ * rr_) {
    ns_per_expert_ = (et_ * rr_ - rt_ * er_) / determinant;
    ns_per_row_ = (rt_ * ee_ - et_ * er_) / determinant;
    // Negative times are noise: the other parameter then explains all.
    if (ns_per_expert_ < 0) {
      ns_per_expert_ = 0;
      ns_per_row_ = rt_ / rr_;
    } else if (ns_per_row_ < 0) {
      ns_per_row_ = 0;
      ns_per_expert_ = et_ / ee_;
    }
  } else {
    ns_per_expert_ = et_ / ee_ / 2;
    ns_per_row_ = rt_ / rr_ / 2;
  }
  ns_per_expert_ = std::max(ns_per_expert_, kLeastNs);
  ns_per_row_ = std::max(ns_per_row_, kLeastNs);
}

int64_t UnitRate::RowsWithin(double budget_ns) const {
  return budget_ns <= ns_per_expert_
             ? 0
             : static_cast<int64_t>((budget_ns - ns_per_expert_) / ns_per_row_);
}

}  // namespace conclave::expert

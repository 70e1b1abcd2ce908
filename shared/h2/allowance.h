// So much at once, and so much more a second: a bound on what a client may do too often.
#pragma once

#include <algorithm>

#include "shared/base/clock.h"

namespace conclave::h2 {

class Allowance {
 public:
  Allowance(double burst, double per_second)
      : burst_(burst), per_second_(per_second), left_(burst) {}

  // False when there is none left.
  bool Take(TimePoint now) {
    left_ = std::min(burst_,
                     left_ + std::chrono::duration<double>(now - counted_).count() * per_second_);
    counted_ = now;
    if (left_ < 1) return false;
    left_ -= 1;
    return true;
  }

 private:
  const double burst_, per_second_;
  double left_;
  TimePoint counted_{};
};

}  // namespace conclave::h2

// Percentiles of a set of times, and how well two sets can be told apart.
#pragma once

#include <vector>

namespace conclave::cli {

// The smallest value that at least `percent` per cent of the values do not exceed (nearest rank). 0
// without values.
double Percentile(std::vector<double> values, double percent);
double Median(std::vector<double> values);

// The probability that a value of `a` is above one of `b`, ties counted half (Mann and Whitney):
// 0.5 if they cannot be told apart. Both have values.
double AreaUnderCurve(const std::vector<double>& a, const std::vector<double>& b);

}  // namespace conclave::cli

// Percentiles of a set of times.
#pragma once

#include <vector>

namespace conclave::cli {

// The smallest value that at least `percent` per cent of the values do not exceed (nearest rank). 0
// without values.
double Percentile(std::vector<double> values, double percent);

}  // namespace conclave::cli

#include "services/cli/percentiles.h"

#include <algorithm>
#include <cmath>
#include <utility>

namespace conclave::cli {

double Percentile(std::vector<double> values, double percent) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const double rank = std::ceil(percent / 100 * static_cast<double>(values.size()));
  const size_t index = static_cast<size_t>(std::max(1.0, rank)) - 1;
  return values[std::min(index, values.size() - 1)];
}

double Median(std::vector<double> values) { return Percentile(std::move(values), 50); }

double AreaUnderCurve(const std::vector<double>& a, const std::vector<double>& b) {
  std::vector<double> sorted = b;
  std::sort(sorted.begin(), sorted.end());
  double above = 0;
  for (const double value : a) {
    const auto low = std::lower_bound(sorted.begin(), sorted.end(), value);
    const auto high = std::upper_bound(low, sorted.end(), value);
    above += static_cast<double>(low - sorted.begin()) + 0.5 * static_cast<double>(high - low);
  }
  return above / (static_cast<double>(a.size()) * static_cast<double>(b.size()));
}

}  // namespace conclave::cli

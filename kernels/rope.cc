#include "kernels/rope.h"

#include <algorithm>
#include <cmath>

#include "kernels/cpu/rows.h"
#include "kernels/functions.h"
#include "kernels/grain.h"
#include "kernels/ref/rows.h"

namespace conclave::kernels {
namespace {

constexpr double kPi = 3.141592653589793;

// The dimension whose pair turns `turns` times over the original context (section 3.2,
// "NTK-by-parts").
double YarnDimension(const YarnParameters& yarn, int64_t rope_dim, double turns) {
  const double positions = static_cast<double>(yarn.original_max_positions);
  return static_cast<double>(rope_dim) * Log64(positions / (turns * 2.0 * kPi)) /
         (2.0 * Log64(yarn.theta));
}

}  // namespace

double DeterministicLog(double x) { return Log64(x); }

std::vector<double> RopeFrequencies(double theta, int64_t rope_dim) {
  const double log_theta = Log64(theta);
  std::vector<double> frequencies(static_cast<size_t>(rope_dim / 2));
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(rope_dim);
    frequencies[i] = Exp64(-exponent * log_theta);
  }
  return frequencies;
}

std::vector<double> YarnFrequencies(const YarnParameters& yarn, int64_t rope_dim) {
  double low = YarnDimension(yarn, rope_dim, yarn.beta_fast);
  double high = YarnDimension(yarn, rope_dim, yarn.beta_slow);
  if (yarn.truncate) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, static_cast<double>(rope_dim - 1));
  if (low == high) high += 0.001;  // as transformers does, against a division by zero

  std::vector<double> frequencies = RopeFrequencies(yarn.theta, rope_dim);
  for (size_t i = 0; i < frequencies.size(); ++i) {
    const double ramp = std::clamp((static_cast<double>(i) - low) / (high - low), 0.0, 1.0);
    const double extrapolated = frequencies[i];
    const double interpolated = frequencies[i] / yarn.factor;
    frequencies[i] = interpolated * ramp + extrapolated * (1.0 - ramp);
  }
  return frequencies;
}

RopeTable MakeRopeTable(std::span<const double> inverse_frequencies, int64_t num_positions,
                        double scale) {
  RopeTable table;
  table.num_positions = num_positions;
  table.num_pairs = static_cast<int64_t>(inverse_frequencies.size());
  const size_t size = static_cast<size_t>(num_positions) * inverse_frequencies.size();
  table.cos.reserve(size);
  table.sin.reserve(size);
  for (int64_t position = 0; position < num_positions; ++position) {
    for (double frequency : inverse_frequencies) {
      const double angle = static_cast<double>(position) * frequency;
      table.cos.push_back(static_cast<float>(Cos64(angle) * scale));
      table.sin.push_back(static_cast<float>(Sin64(angle) * scale));
    }
  }
  return table;
}

void ApplyRope(const RopeTable& table, RopePairing pairing, std::span<const int32_t> positions,
               int64_t num_heads, int64_t head_stride, MatrixView<float> rows, Context& context) {
  if (context.level() == CpuLevel::kReference) {
    ref::ApplyRope(table, pairing, positions, num_heads, head_stride, rows);
    return;
  }
  const cpu::RowFunctions& functions = cpu::RowsFor(context.level());
  const auto rotate =
      pairing == RopePairing::kInterleaved ? functions.rotate_interleaved : functions.rotate_halves;
  const int64_t grain = RowGrain(num_heads * table.num_pairs * 2);
  context.pool().ParallelFor(rows.rows, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t first = positions[static_cast<size_t>(r)] * table.num_pairs;
      for (int64_t h = 0; h < num_heads; ++h) {
        rotate(table.cos.data() + first, table.sin.data() + first, table.num_pairs,
               rows.Row(r) + h * head_stride);
      }
    }
  });
}

}  // namespace conclave::kernels

// Rotary position embedding, with a table made by our own sine and cosine (no libm:
// docs/numerics.md, "Functions").
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/context.h"
#include "kernels/matrix.h"

namespace conclave::kernels {

// Which dimensions form a rotated pair: (2i, 2i+1), or (i, i + rope_dim / 2).
enum class RopePairing : uint8_t { kInterleaved, kHalves };

// cos and sin for every position and pair: [num_positions][rope_dim / 2] f32 each.
struct RopeTable {
  int64_t num_positions = 0;
  int64_t num_pairs = 0;
  std::vector<float> cos;
  std::vector<float> sin;
};

// inverse_frequencies[i] is the angle per position of pair i (radians); cos and sin are multiplied
// by `scale` (YaRN's attention factor, else 1).
RopeTable MakeRopeTable(std::span<const double> inverse_frequencies, int64_t num_positions,
                        double scale);

// Inverse frequencies: theta^(-2i / rope_dim), computed without libm.
std::vector<double> RopeFrequencies(double theta, int64_t rope_dim);

// YaRN (Peng et al., arXiv 2309.00071, section 3.2): interpolates between theta^(-2i/d) and the
// same / factor by a ramp between the dimensions that turn beta_fast and beta_slow times over the
// original context.
struct YarnParameters {
  double theta = 10000, factor = 1, beta_fast = 32, beta_slow = 1;
  int64_t original_max_positions = 4096;
  bool truncate =
      true;  // round the ramp's ends to whole dimensions, as transformers does by default
};
std::vector<double> YarnFrequencies(const YarnParameters& yarn, int64_t rope_dim);

// Natural logarithm for YaRN's factors, without libm. x > 0.
double DeterministicLog(double x);

// Rotates the first `table.num_pairs * 2` elements of each of `num_heads` heads, spaced
// `head_stride` elements apart in a row, in place. Row r is at positions[r] < table.num_positions.
// rows.cols covers all heads.
void ApplyRope(const RopeTable& table, RopePairing pairing, std::span<const int32_t> positions,
               int64_t num_heads, int64_t head_stride, MatrixView<float> rows, Context& context);

}  // namespace conclave::kernels

// The scalar f32 functions and the steps of a chain, as docs/numerics.md words them ("Functions",
// "Matmul").
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/bf16.h"
#include "kernels/functions.h"

namespace conclave::kernels::ref {

inline float Exp(float x) {
  if (x != x) return x;
  if (x > kExpMax) return std::numeric_limits<float>::infinity();
  if (x < kExpMin) return 0.0f;
  const float t = std::fma(x, kExpLog2E, kExpMagic);
  const float n = t - kExpMagic;
  float r = std::fma(n, -kExpLn2High, x);
  r = std::fma(n, -kExpLn2Low, r);
  float p = kExpC[6];
  for (int i = 5; i >= 0; --i) p = std::fma(p, r, kExpC[i]);
  // t's low bits hold n; shifted into the exponent field, everything above falls off.
  return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(t) << 23));
}

inline float Sigmoid(float x) { return 1.0f / (1.0f + Exp(-x)); }
inline float Silu(float x) { return x / (1.0f + Exp(-x)); }

inline float FlushSubnormal(float x) {
  return std::fabs(x) < std::numeric_limits<float>::min() ? std::copysign(0.0f, x) : x;
}

// fma with subnormal inputs and tiny results flushed.
inline float FlushedFma(float a, float b, float c) {
  constexpr float kMinNormal = std::numeric_limits<float>::min();
  a = FlushSubnormal(a);
  b = FlushSubnormal(b);
  c = FlushSubnormal(c);
  const float result = std::fma(a, b, c);
  if (std::fabs(result) == kMinNormal) {
    // It may have been rounded up to 2^-126 on the coarse grid of subnormals only. The f64 sum is
    // exact here: a * b has 16 significant bits and cancels c down to 2^-126, so all bits lie
    // between 2^-126 and 2^-167.
    const double exact = static_cast<double>(a) * b + c;
    if (std::fabs(exact) < 0x1p-126 - 0x1p-151) return std::copysign(0.0f, result);
  }
  return FlushSubnormal(result);
}

// The cache's rounding: finite numbers only.
inline float Saturate(float x, float largest) {
  if (x != x) return 0.0f;
  if (x > largest) return largest;
  return x < -largest ? -largest : x;
}

inline constexpr float kMaxBf16 = 0x1.fep+127f;
inline constexpr float kMaxF32 = std::numeric_limits<float>::max();

// Sums in 16 lanes.
struct LaneSum {
  float lanes[16] = {};

  void Add(int64_t index, float x) { lanes[index % 16] = lanes[index % 16] + x; }
  void AddSquare(int64_t index, float x) { lanes[index % 16] = std::fma(x, x, lanes[index % 16]); }
  float Total() {
    for (int half = 8; half >= 1; half /= 2) {
      for (int j = 0; j < half; ++j) lanes[j] = lanes[j] + lanes[j + half];
    }
    return lanes[0];
  }
};

}  // namespace conclave::kernels::ref

// The project's own elementary functions (docs/numerics.md, "Functions"): no C library, the same
// bits everywhere.
//
// The f32 exp lives in ref/functions.h and cpu/lanes.h; its constants are here. The f64
// functions serve tables and log-probabilities, where speed does not matter, and have one scalar
// form for all levels.
#pragma once

namespace conclave::kernels {

// exp(x) = 2^n * p(r), x = n ln 2 + r. The polynomial is a minimax fit of (exp(r) - 1 - r) / r^2
// over |r| <= 0.3468, relative to exp(r): 0.06 * 2^-24. kExpLn2High has 15 bits, so n * kExpLn2High
// is exact.
inline constexpr float kExpMax = 88.7f;   // above: +infinity, a little before f32 ends
inline constexpr float kExpMin = -87.0f;  // below: 0, a little before f32 becomes subnormal
inline constexpr float kExpLog2E = 0x1.715476p+0f;
inline constexpr float kExpMagic = 0x1.8p+23f;  // adding it rounds to an integer, in the low bits
inline constexpr float kExpLn2High = 0x1.62e4p-1f;
inline constexpr float kExpLn2Low = 0x1.7f7d1cp-20f;
inline constexpr float kExpC[7] = {1.0f,           1.0f,          0x1.fffffcp-2f, 0x1.555492p-3f,
                                   0x1.5558f2p-5f, 0x1.123a2p-7f, 0x1.6a23cep-10f};

double Log64(double x);  // x > 0 and normal
double Exp64(double x);  // |x| < 700
double Sin64(double x);  // |x| < 1e7
double Cos64(double x);  // |x| < 1e7

}  // namespace conclave::kernels

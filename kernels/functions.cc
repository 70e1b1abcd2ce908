#include "kernels/functions.h"

#include <bit>
#include <cmath>
#include <cstdint>
#include <initializer_list>

namespace conclave::kernels {
namespace {

constexpr double kLn2High = 0x1.62e42fefap-1;  // 36 bits: times an exponent it is exact
constexpr double kLn2Low = 0x1.cf79abc9e3b3ap-40;
constexpr double kLog2E = 0x1.71547652b82fep+0;
constexpr double kRoundMagic =
    0x1.8p+52;  // adding and subtracting it rounds to the nearest integer

// pi / 2 in three parts.
constexpr double kHalfPi1 = 0x1.921fb54442d18p+0;
constexpr double kHalfPi2 = 0x1.1a62633145c07p-54;
constexpr double kHalfPi3 = -0x1.f1976b7ed8fbcp-110;
constexpr double kTwoOverPi = 0x1.45f306dc9c883p-1;

double RoundToInteger(double x) { return (x + kRoundMagic) - kRoundMagic; }

// sin(r) and cos(r) for |r| <= pi / 4, by Taylor's series.
double SinNearZero(double r) {
  const double s = r * r;
  double p = 1.0 / 355687428096000.0;
  for (double c : {-1.0 / 1307674368000.0, 1.0 / 6227020800.0, -1.0 / 39916800.0, 1.0 / 362880.0,
                   -1.0 / 5040.0, 1.0 / 120.0, -1.0 / 6.0}) {
    p = std::fma(p, s, c);
  }
  return std::fma(p * s, r, r);
}

double CosNearZero(double r) {
  const double s = r * r;
  double p = 1.0 / 20922789888000.0;
  for (double c : {-1.0 / 87178291200.0, 1.0 / 479001600.0, -1.0 / 3628800.0, 1.0 / 40320.0,
                   -1.0 / 720.0, 1.0 / 24.0, -1.0 / 2.0}) {
    p = std::fma(p, s, c);
  }
  return std::fma(p, s, 1.0);
}

// sin(x + quarter_turns * pi / 2).
double SinShifted(double x, int64_t quarter_turns) {
  const double k = RoundToInteger(x * kTwoOverPi);
  double r = std::fma(-k, kHalfPi1, x);
  r = std::fma(-k, kHalfPi2, r);
  r = std::fma(-k, kHalfPi3, r);
  const uint64_t quadrant = static_cast<uint64_t>(static_cast<int64_t>(k) + quarter_turns) & 3;
  const double value = (quadrant & 1) != 0 ? CosNearZero(r) : SinNearZero(r);
  return (quadrant & 2) != 0 ? -value : value;
}

}  // namespace

double Log64(double x) {
  const uint64_t bits = std::bit_cast<uint64_t>(x);
  int64_t exponent = static_cast<int64_t>(bits >> 52) - 1023;
  double m = std::bit_cast<double>((bits & 0x000fffffffffffffull) | 0x3ff0000000000000ull);
  if (m > 0x1.6a09e667f3bcdp+0) {  // sqrt(2)
    m *= 0.5;
    ++exponent;
  }
  // log(m) = 2 atanh(s) = 2 (s + s^3 / 3 + s^5 / 5 + ...), |s| < 0.172.
  const double s = (m - 1.0) / (m + 1.0);
  const double t = s * s;
  double p = 1.0 / 23.0;
  for (int n = 21; n >= 3; n -= 2) p = std::fma(p, t, 1.0 / n);
  const double e = static_cast<double>(exponent);
  const double small = std::fma(e, kLn2Low, 2.0 * s * t * p);
  return std::fma(e, kLn2High, 2.0 * s + small);
}

double Exp64(double x) {
  const double n = RoundToInteger(x * kLog2E);
  double r = std::fma(-n, kLn2High, x);
  r = std::fma(-n, kLn2Low, r);
  double p = 1.0 / 87178291200.0;  // 1 / 14!
  for (double c : {1.0 / 6227020800.0, 1.0 / 479001600.0, 1.0 / 39916800.0, 1.0 / 3628800.0,
                   1.0 / 362880.0, 1.0 / 40320.0, 1.0 / 5040.0, 1.0 / 720.0, 1.0 / 120.0,
                   1.0 / 24.0, 1.0 / 6.0, 0.5, 1.0, 1.0}) {
    p = std::fma(p, r, c);
  }
  return std::bit_cast<double>(std::bit_cast<int64_t>(p) + (static_cast<int64_t>(n) << 52));
}

double Sin64(double x) { return SinShifted(x, 0); }
double Cos64(double x) { return SinShifted(x, 1); }

}  // namespace conclave::kernels

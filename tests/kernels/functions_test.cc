#include "kernels/functions.h"

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>

#include "kernels/ref/functions.h"

namespace conclave::kernels {
namespace {

// |value - truth| in units of the last place of the f32 nearest to truth.
double UlpError(float value, long double truth) {
  const float nearest = static_cast<float>(truth);
  int exponent = 0;
  std::frexp(nearest, &exponent);
  return static_cast<double>(std::fabs(static_cast<long double>(value) - truth) /
                             std::ldexp(1.0L, exponent - 24));
}

double Relative(double value, long double truth) {
  return static_cast<double>(std::fabs((value - truth) / truth));
}

constexpr double kUlp64 = 0x1p-52;

TEST(ExpTest, StaysWithinItsBoundOverItsRange) {
  double worst = 0;
  for (float x = kExpMin; x <= kExpMax; x += 0.000731f) {
    worst = std::max(worst, UlpError(ref::Exp(x), std::exp(static_cast<long double>(x))));
  }
  EXPECT_LT(worst, 1.5);
}

TEST(ExpTest, HasItsEdges) {
  EXPECT_EQ(ref::Exp(0.0f), 1.0f);
  EXPECT_EQ(ref::Exp(-0.0f), 1.0f);
  EXPECT_EQ(ref::Exp(-87.1f), 0.0f);
  EXPECT_EQ(ref::Exp(-std::numeric_limits<float>::infinity()), 0.0f);
  EXPECT_EQ(ref::Exp(88.8f), std::numeric_limits<float>::infinity());
  EXPECT_TRUE(std::isnormal(ref::Exp(kExpMin)));
  EXPECT_TRUE(std::isfinite(ref::Exp(kExpMax)));
  EXPECT_TRUE(std::isnan(ref::Exp(std::numeric_limits<float>::quiet_NaN())));
}

TEST(SigmoidAndSiluTest, StayWithinTheirBounds) {
  double worst_sigmoid = 0;
  double worst_silu = 0;
  for (float x = -86.0f; x <= 86.0f; x += 0.00371f) {
    const long double sigmoid = 1.0L / (1.0L + std::exp(-static_cast<long double>(x)));
    worst_sigmoid = std::max(worst_sigmoid, UlpError(ref::Sigmoid(x), sigmoid));
    worst_silu = std::max(worst_silu, UlpError(ref::Silu(x), x * sigmoid));
  }
  EXPECT_LT(worst_sigmoid, 3.0);
  EXPECT_LT(worst_silu, 3.0);
  EXPECT_EQ(ref::Sigmoid(-100.0f), 0.0f);
  EXPECT_EQ(ref::Sigmoid(100.0f), 1.0f);
}

TEST(Log64Test, StaysWithinItsBound) {
  for (double x = 1e-12; x < 1e12; x *= 1.000917) {
    const long double truth = std::log(static_cast<long double>(x));
    const double error = static_cast<double>(std::fabs(Log64(x) - truth));
    ASSERT_LT(error, std::fabs(truth) > 0.01L ? 4 * kUlp64 * std::fabs(truth) : 1e-17L) << x;
  }
  EXPECT_EQ(Log64(1.0), 0.0);
}

TEST(Exp64Test, StaysWithinItsBound) {
  for (double x = -699.0; x < 699.0; x += 0.0173) {
    ASSERT_LT(Relative(Exp64(x), std::exp(static_cast<long double>(x))), 4 * kUlp64) << x;
  }
  EXPECT_EQ(Exp64(0.0), 1.0);
}

TEST(SinCos64Test, StayWithinTheirBound) {
  for (double x = 0.0; x < 1e7; x = x * 1.00093 + 0.0217) {
    ASSERT_LT(std::fabs(Sin64(x) - std::sin(static_cast<long double>(x))), 1e-15L) << x;
    ASSERT_LT(std::fabs(Cos64(x) - std::cos(static_cast<long double>(x))), 1e-15L) << x;
    ASSERT_EQ(Sin64(-x), -Sin64(x)) << x;
  }
  EXPECT_EQ(Sin64(0.0), 0.0);
  EXPECT_EQ(Cos64(0.0), 1.0);
}

TEST(FlushedFmaTest, FlushesTinyResultsAndSubnormalOperands) {
  const float tiny = std::numeric_limits<float>::denorm_min();
  EXPECT_EQ(ref::FlushedFma(tiny, 0x1p+100f, 0.0f), 0.0f);
  EXPECT_EQ(ref::FlushedFma(1.0f, 1.0f, tiny), 1.0f);
  EXPECT_EQ(ref::FlushedFma(0x1p-70f, 0x1p-70f, 0.0f), 0.0f);
  EXPECT_TRUE(std::signbit(ref::FlushedFma(-0x1p-70f, 0x1p-70f, 0.0f)));
  EXPECT_EQ(ref::FlushedFma(0x1p-63f, 0x1p-63f, 0.0f), 0x1p-126f);
  // The threshold of docs/numerics.md: rounding happens before the comparison, without a lower
  // limit of the exponent.
  EXPECT_EQ(ref::FlushedFma(0x1p-75f, -0x1p-76f, 0x1p-126f), 0x1p-126f);
  EXPECT_EQ(ref::FlushedFma(0x1p-75f, -0x1p-75f, 0x1p-126f), 0.0f);
}

TEST(ToBf16Test, RoundsToNearestEven) {
  EXPECT_EQ(ToBf16(1.0f).bits, 0x3f80);
  EXPECT_EQ(ToBf16(std::bit_cast<float>(0x3f808000u)).bits, 0x3f80);  // tie to even
  EXPECT_EQ(ToBf16(std::bit_cast<float>(0x3f818000u)).bits, 0x3f82);  // tie to even
  EXPECT_EQ(ToBf16(std::bit_cast<float>(0x3f808001u)).bits, 0x3f81);
  EXPECT_EQ(ToBf16(std::numeric_limits<float>::max()).bits, 0x7f80);
  EXPECT_TRUE(std::isnan(ToFloat(ToBf16(std::bit_cast<float>(0x7f800001u)))));
}

}  // namespace
}  // namespace conclave::kernels

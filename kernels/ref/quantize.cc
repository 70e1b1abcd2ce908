#include "kernels/ref/quantize.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "kernels/quantize.h"

namespace conclave::kernels::ref {
namespace {

constexpr int kLanes = 16;
// Adding and subtracting it rounds a number below 2^22 to an integer, ties to even.
constexpr float kRound = 0x1.8p23f;

float Rounded(float x) { return (x + kRound) - kRound; }

// In magnitude; not finite if a value is not.
float Largest(std::span<const float> values) {
  uint32_t largest = 0;
  for (const float value : values) {
    largest = std::max(largest, std::bit_cast<uint32_t>(value) & 0x7fffffffu);
  }
  return std::bit_cast<float>(largest);
}

double SumLanes(double (&lanes)[kLanes]) {
  for (int half = kLanes / 2; half > 0; half /= 2) {
    for (int j = 0; j < half; ++j) lanes[j] += lanes[j + half];
  }
  return lanes[0];
}

float QuantizeInt8(std::span<const float> values, float largest, int8_t* quantized) {
  const float inverse = 127.0f / largest;
  for (size_t i = 0; i < values.size(); ++i) {
    quantized[i] = static_cast<int8_t>(Rounded(values[i] * inverse));
  }
  return largest / 127.0f;
}

int Int4Of(float value, float inverse) {
  return static_cast<int>(std::clamp(Rounded(value * inverse), -8.0f, 7.0f));
}

float QuantizeInt4(std::span<const float> values, float largest, int8_t* quantized) {
  const float extreme =
      *std::ranges::find_if(values, [largest](float value) { return std::fabs(value) == largest; });
  double best_fit = -1;
  float best_scale = 0, best_inverse = 0;
  for (int quarter = -6; quarter <= 6; ++quarter) {
    const float inverse = (-8.0f - 0.25f * static_cast<float>(quarter)) / extreme;
    double products[kLanes] = {}, squares[kLanes] = {};
    for (size_t i = 0; i < values.size(); ++i) {
      const double integer = Int4Of(values[i], inverse);
      products[i % kLanes] += values[i] * integer;
      squares[i % kLanes] += integer * integer;
    }
    const double product = SumLanes(products), square = SumLanes(squares);
    // By the best scale for these integers the squared error is less by this than without any.
    const double fit = product * product / square;
    if (fit > best_fit) {
      best_fit = fit;
      best_scale = static_cast<float>(product / square);
      best_inverse = inverse;
    }
  }
  for (size_t i = 0; i < values.size(); ++i) {
    quantized[i] = static_cast<int8_t>(Int4Of(values[i], best_inverse));
  }
  return best_scale;
}

}  // namespace

float QuantizeGroup(WeightType type, std::span<const float> values, int8_t* quantized) {
  const float largest = Largest(values);
  if (!std::isfinite(largest) || largest < kZeroBelow) {
    std::fill_n(quantized, values.size(), int8_t{0});
    return std::isfinite(largest) ? 0.0f : std::numeric_limits<float>::quiet_NaN();
  }
  return type == WeightType::kInt8 ? QuantizeInt8(values, largest, quantized)
                                   : QuantizeInt4(values, largest, quantized);
}

}  // namespace conclave::kernels::ref

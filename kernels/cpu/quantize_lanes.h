// The functions of kernels/cpu/quantize.h, of lanes of any instruction set (kernels/cpu/lanes.h).
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/quantize.h"
#include "kernels/quantize.h"

namespace conclave::kernels::cpu {

template <typename Floats>
struct Quantize {
  using Mask = typename Floats::Mask;
  using Ints = typename Floats::Ints;
  using Doubles = typename Floats::Doubles;

  static float Group(WeightType type, std::span<const float> values, int8_t* quantized) {
    const float largest = Largest(values);
    if (type == WeightType::kInt8 || !__builtin_isfinite(largest) || largest < kZeroBelow) {
      int32_t sum;
      return Int8(values, Count(values), quantized, &sum);
    }
    return Int4(values, largest, quantized);
  }

  static float Int8(std::span<const float> values, int64_t padded, int8_t* quantized,
                    int32_t* sum) {
    const int64_t count = Count(values);
    const float largest = Largest(values);
    const bool finite = __builtin_isfinite(largest);
    const bool any = finite && largest >= kZeroBelow;
    const Floats inverse = Floats::Of(any ? 127.0f / largest : 0.0f);
    Ints sums = Ints::Zero();
    ForEachVector<Floats>(padded, [&](int64_t i, auto lanes) {
      Floats x = Floats::Zero();
      if (any && count - i >= kLanes) {
        x = Floats::Load(values.data() + i);
      } else if (any && count > i) {
        x = Floats::Load(values.data() + i, Mask::FromBits(FirstLanes(count - i)));
      }
      const Ints integers = (x * inverse).RoundedToInts();
      sums = sums + integers;
      integers.StoreBytes(quantized + i, lanes);
    });
    *sum = sums.SumLanes();
    return any ? largest / 127.0f : finite ? 0.0f : __builtin_nanf("");
  }

  static constexpr QuantizeFunctions kFunctions = {.group = Group, .int8 = Int8};

 private:
  static int64_t Count(std::span<const float> values) {
    return static_cast<int64_t>(values.size());
  }

  // In magnitude; not finite if a value is not. As integers magnitudes have the order of floats,
  // and infinity and NaN are above all others.
  static float Largest(std::span<const float> values) {
    Ints largest = Ints::Zero();
    ForEachVector<Floats>(Count(values), [&](int64_t i, auto lanes) {
      const Ints bits = Floats::Load(values.data() + i, lanes).bits();
      largest = LargerUnsigned(largest, bits & Ints::Of(0x7fffffff));
    });
    return std::bit_cast<float>(largest.MaxLanesUnsigned());
  }

  // The 16 integers of clamp(rint(x * inverse), -8, 7), as floats.
  static Floats Int4Lanes(Floats x, float inverse) {
    const Floats rounded = (x * Floats::Of(inverse)).Rounded();
    return Smaller(Larger(rounded, Floats::Of(-8)), Floats::Of(7));
  }

  static float Int4(std::span<const float> values, float largest, int8_t* quantized) {
    const int64_t count = Count(values);
    int64_t first = 0;
    while (__builtin_fabsf(values[static_cast<size_t>(first)]) != largest) ++first;
    const float extreme = values[static_cast<size_t>(first)];
    double best_fit = -1;
    float best_scale = 0, best_inverse = 0;
    for (int quarter = -6; quarter <= 6; ++quarter) {
      const float inverse = (-8.0f - 0.25f * static_cast<float>(quarter)) / extreme;
      Doubles products = Doubles::Zero(), squares = Doubles::Zero();
      ForEachVector<Floats>(count, [&](int64_t i, auto lanes) {
        const Floats x = Floats::Load(values.data() + i, lanes);
        const Doubles integers = Int4Lanes(x, inverse).doubles();
        products = products + x.doubles() * integers;
        squares = squares + integers * integers;
      });
      const double product = products.SumLanes(), square = squares.SumLanes();
      const double fit = product * product / square;
      if (fit > best_fit) {
        best_fit = fit;
        best_scale = static_cast<float>(product / square);
        best_inverse = inverse;
      }
    }
    ForEachVector<Floats>(count, [&](int64_t i, auto lanes) {
      const Floats x = Floats::Load(values.data() + i, lanes);
      Int4Lanes(x, best_inverse).RoundedToInts().StoreBytes(quantized + i, lanes);
    });
    return best_scale;
  }
};

}  // namespace conclave::kernels::cpu

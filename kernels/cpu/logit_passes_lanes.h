// The passes of kernels/cpu/logit_passes.h, of lanes of any instruction set (kernels/cpu/lanes.h).
#pragma once

#include <cstdint>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/logit_passes.h"
#include "kernels/cpu/rows_lanes.h"

namespace conclave::kernels::cpu {

template <typename Floats>
struct LogitPasses {
  using Mask = typename Floats::Mask;
  using Ints = typename Floats::Ints;
  using Doubles = typename Floats::Doubles;
  using Longs = typename Floats::Longs;

  static void Copy(const float* logits, int64_t count, float* output) {
    const Floats lowest = Floats::Of(-__builtin_inff());
    const Floats highest = Floats::Of(__FLT_MAX__);
    ForEachVector<Floats>(count, [&](int64_t i, auto lanes) {
      // With a NaN first, a maximum is its second operand.
      const Floats x = Larger(Floats::Load(logits + i, lanes), lowest);
      Smaller(x, highest).Store(output + i, lanes);
    });
  }

  static int64_t CollectFrom(const float* logits, int64_t count, float threshold, int32_t* ids,
                             float* kept) {
    const Floats least = Floats::Of(threshold);
    Ints index = Ints::Ascending();
    int64_t found = 0;
    for (int64_t i = 0; i < count; i += kLanes) {
      const uint32_t lanes = FirstLanes(count - i);
      const Floats x = count - i >= kLanes ? Floats::Load(logits + i)
                                           : Floats::Load(logits + i, Mask::FromBits(lanes));
      const uint32_t keep = LessOrEqual(least, x).bits() & lanes;
      if (keep != 0) {
        const Mask chosen = Mask::FromBits(keep);
        index.StoreChosen(ids + found, chosen);
        x.StoreChosen(kept + found, chosen);
        found += __builtin_popcount(keep);
      }
      index = index + Ints::Of(kLanes);
    }
    return found;
  }

  static void Weigh(const float* logits, int64_t count, float largest, float temperature,
                    uint64_t* weights) {
    const Floats shift = Floats::Of(largest), divisor = Floats::Of(temperature);
    ForEachVector<Floats>(count, [&](int64_t i, auto lanes) {
      WeightsOf(Floats::Load(logits + i, lanes), shift, divisor).Store(weights + i, lanes);
    });
  }

  static uint64_t SumOfWeights(const float* logits, int64_t count, float largest,
                               float temperature) {
    const Floats shift = Floats::Of(largest), divisor = Floats::Of(temperature);
    const Floats lowest = Floats::Of(-__builtin_inff());  // weighs nothing
    Longs sum = Longs::Zero();
    ForEachVector<Floats>(count, [&](int64_t i, auto lanes) {
      const Floats x = Within(lanes, Floats::Load(logits + i, lanes), lowest);
      sum = sum + WeightsOf(x, shift, divisor);
    });
    return sum.SumLanes();
  }

  static constexpr LogitFunctions kFunctions = {.copy = Copy,
                                                .index_of_largest = Rows<Floats>::IndexOfMax,
                                                .largest = Rows<Floats>::Max,
                                                .collect_from = CollectFrom,
                                                .weigh = Weigh,
                                                .sum_of_weights = SumOfWeights};

 private:
  // floor(exp((logit - largest) / temperature) * 2^40): the product is exact in f64, and conversion
  // truncates.
  static Longs WeightsOf(Floats logits, Floats largest, Floats temperature) {
    const Floats e = Exp((logits - largest) / temperature);
    return (e.doubles() * Doubles::Of(0x1p+40)).Truncated();
  }
};

}  // namespace conclave::kernels::cpu

// The functions of kernels/cpu/softmax.h, of lanes of any instruction set (kernels/cpu/lanes.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/softmax.h"

namespace conclave::kernels::cpu {

template <typename Floats>
struct Softmax {
  using Mask = typename Floats::Mask;

  static SegmentSum Segment(WeightFormat format, const SegmentRange& range, float scale,
                            float* scores, std::byte* probabilities) {
    const Floats factor = Floats::Of(scale);
    Floats largest = Floats::Of(-__builtin_inff());
    for (int64_t i = range.begin / kLanes * kLanes; i < range.end; i += kLanes) {
      const Floats score = Floats::Load(scores + i) * factor;
      score.Store(scores + i);
      // With the new score first, a NaN loses against what is there.
      largest = Select(Mask::FromBits(Visible(i, range)), Larger(score, largest), largest);
    }
    const float max = largest.MaxLanes();
    const Floats shift = Floats::Of(max);
    Floats sum = Floats::Zero();
    for (int64_t i = range.first; i < range.last; i += kLanes) {
      const uint32_t visible = Visible(i, range);
      Floats p = Floats::Zero();
      if (visible != 0) {
        p = Select(Mask::FromBits(visible), Exp(Floats::Load(scores + i) - shift), p);
      }
      if (format == WeightFormat::kF32) {
        p.Store(reinterpret_cast<float*>(probabilities) + i);
      } else {
        const auto rounded = ToBf16Lanes(p);
        rounded.StoreWords(probabilities + 2 * i, AllLanes{});
        p = rounded.template ShiftLeft<16>().floats();
      }
      sum = sum + p;
    }
    return {max, sum.SumLanes()};
  }

  static void Merge(bool first, const SegmentSum& segment, const float* values, int64_t columns,
                    RunningRow& row) {
    const Floats zero = Floats::Zero();
    if (first) {
      for (int64_t d = 0; d < columns; d += kLanes) {
        (Floats::Load(values + d) + zero).Store(row.values + d);
      }
      row.max = segment.max;
      row.sum = segment.sum;
      return;
    }
    const float merged = row.max < segment.max ? segment.max : row.max;
    const Floats a = Exp(Floats::Of(row.max - merged));
    const Floats b = Exp(Floats::Of(segment.max - merged));
    for (int64_t d = 0; d < columns; d += kLanes) {
      const Floats value = Floats::Load(values + d) + zero;
      Fma(value, b, Floats::Load(row.values + d) * a).Store(row.values + d);
    }
    row.sum = Fma(Floats::Of(segment.sum), b, Floats::Of(row.sum) * a).first();
    row.max = merged;
  }

  static void Finish(const float* sink, RunningRow& row, int64_t count, float* output) {
    Floats factor = Floats::Of(1.0f);
    if (sink != nullptr) {
      const float merged = row.max < *sink ? *sink : row.max;
      const float a = Exp(Floats::Of(row.max - merged)).first();
      factor = Floats::Of(a);
      row.sum = row.sum * a + Exp(Floats::Of(*sink - merged)).first();
      row.max = merged;
    }
    const Floats inverse = Floats::Of(1.0f / row.sum);
    ForEachVector<Floats>(count, [&](int64_t d, auto lanes) {
      (Floats::Load(row.values + d) * factor * inverse).Store(output + d, lanes);
    });
  }

  static constexpr SoftmaxFunctions kFunctions = {
      .segment = Segment, .merge = Merge, .finish = Finish};

 private:
  // The lanes of the vector at `first` that are in [begin, end).
  static uint32_t Visible(int64_t first, const SegmentRange& range) {
    const uint32_t before_end = range.end <= first ? 0 : FirstLanes(range.end - first);
    const uint32_t before_begin = range.begin <= first ? 0 : FirstLanes(range.begin - first);
    return before_end & ~before_begin;
  }
};

}  // namespace conclave::kernels::cpu

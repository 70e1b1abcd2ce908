// The row operations of kernels/cpu/rows.h, of lanes of any instruction set (kernels/cpu/lanes.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/lanes.h"
#include "kernels/cpu/rows.h"

namespace conclave::kernels::cpu {

template <typename Floats>
struct Rows {
  using Mask = typename Floats::Mask;

  static void Round(const float* input, int64_t count, int64_t padded, std::byte* output) {
    ForEachVector<Floats>(padded, [&](int64_t i, auto lanes) {
      Floats x = Floats::Zero();
      if (count - i >= kLanes) {
        x = Floats::Load(input + i);
      } else if (count > i) {
        x = Floats::Load(input + i, Mask::FromBits(FirstLanes(count - i)));
      }
      ToBf16Lanes(x).StoreWords(output + 2 * i, lanes);
    });
  }

  static void SiluMultiply(const float* gate, const float* up, int64_t count, float* output) {
    ForEachVector<Floats>(count, [&](int64_t i, auto lanes) {
      const Floats g = Floats::Load(gate + i, lanes);
      (Silu(g) * Floats::Load(up + i, lanes)).Store(output + i, lanes);
    });
  }

  static void SiluMultiplyToBf16(const float* gate, const float* up, int64_t count, bf16* output) {
    ForEachVector<Floats>(count, [&](int64_t i, auto lanes) {
      const Floats g = Floats::Load(gate + i, lanes);
      ToBf16Lanes(Silu(g) * Floats::Load(up + i, lanes)).StoreWords(output + i, lanes);
    });
  }

  static void Add(const float* a, const float* b, int64_t count, float* output) {
    ForEachVector<Floats>(count, [&](int64_t i, auto lanes) {
      (Floats::Load(a + i, lanes) + Floats::Load(b + i, lanes)).Store(output + i, lanes);
    });
  }

  static void ScaleBySigmoid(float score, int64_t count, float* row) {
    const Floats factor = Sigmoid(Floats::Of(score));
    ForEachVector<Floats>(count, [&](int64_t i, auto lanes) {
      (Floats::Load(row + i, lanes) * factor).Store(row + i, lanes);
    });
  }

  static void Norm(const float* input, const float* weight, float epsilon, int64_t count,
                   float* output) {
    Floats squares = Floats::Zero();
    ForEachVector<Floats>(count, [&](int64_t i, auto lanes) {
      const Floats x = Floats::Load(input + i, lanes);
      squares = Fma(x, x, squares);
    });
    const float mean = squares.SumLanes() / static_cast<float>(count);
    const Floats factor = Floats::Of(1.0f / __builtin_sqrtf(mean + epsilon));
    ForEachVector<Floats>(count, [&](int64_t i, auto lanes) {
      const Floats x = Floats::Load(input + i, lanes) * factor;
      (x * Floats::Load(weight + i, lanes)).Store(output + i, lanes);
    });
  }

  static void RotateInterleaved(const float* cos, const float* sin, int64_t num_pairs,
                                float* head) {
    // The signs of the terms (b * sin, a * sin) of a pair: the first is negated.
    alignas(64) static constexpr float kSigns[kLanes] = {-0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f,
                                                         -0.0f, 0.0f, -0.0f, 0.0f, -0.0f, 0.0f,
                                                         -0.0f, 0.0f, -0.0f, 0.0f};
    const Floats signs = Floats::Load(kSigns);
    ForEachVector<Floats>(2 * num_pairs, [&](int64_t i, auto lanes) {
      const Mask pairs = Mask::FromBits(FirstLanes(num_pairs - i / 2) & 0xff);
      const Floats c = Floats::LoadTwice(cos + i / 2, pairs);
      const Floats s = Floats::LoadTwice(sin + i / 2, pairs);
      const Floats x = Floats::Load(head + i, lanes);
      const Floats crossed = x.PairsSwapped() * s;
      const Floats term = (crossed.bits() ^ signs.bits()).floats();
      Fma(x, c, term).Store(head + i, lanes);
    });
  }

  static void RotateHalves(const float* cos, const float* sin, int64_t num_pairs, float* head) {
    ForEachVector<Floats>(num_pairs, [&](int64_t i, auto lanes) {
      const Floats c = Floats::Load(cos + i, lanes);
      const Floats s = Floats::Load(sin + i, lanes);
      const Floats a = Floats::Load(head + i, lanes);
      const Floats b = Floats::Load(head + num_pairs + i, lanes);
      Fma(a, c, Negate(b * s)).Store(head + i, lanes);
      Fma(b, c, a * s).Store(head + num_pairs + i, lanes);
    });
  }

  static void Combine(const float* rows, int64_t stride, const float* weights, int64_t num_rows,
                      int64_t count, float* accumulator) {
    ForEachVector<Floats>(count, [&](int64_t i, auto lanes) {
      Floats sum = Floats::Load(accumulator + i, lanes);
      for (int64_t j = 0; j < num_rows; ++j) {
        sum = Fma(Floats::Of(weights[j]), Floats::Load(rows + j * stride + i, lanes), sum);
      }
      sum.Store(accumulator + i, lanes);
    });
  }

  static void SoftmaxScores(const float* logits, int64_t count, float* scores) {
    const Floats shift = Floats::Of(Max(logits, count));
    Floats sum = Floats::Zero();
    ForEachVector<Floats>(count, [&](int64_t i, auto lanes) {
      const Floats e = Exp(Floats::Load(logits + i, lanes) - shift);
      e.Store(scores + i, lanes);
      sum = sum + Within(lanes, e, Floats::Zero());
    });
    const Floats total = Floats::Of(sum.SumLanes());
    ForEachVector<Floats>(count, [&](int64_t i, auto lanes) {
      (Floats::Load(scores + i, lanes) / total).Store(scores + i, lanes);
    });
  }

  static void SigmoidScores(const float* logits, int64_t count, float* scores) {
    ForEachVector<Floats>(count, [&](int64_t i, auto lanes) {
      Sigmoid(Floats::Load(logits + i, lanes)).Store(scores + i, lanes);
    });
  }

  static int64_t IndexOfMax(const float* values, int64_t count) {
    const Floats largest = Floats::Of(Max(values, count));
    for (int64_t i = 0; i < count; i += kLanes) {
      const uint32_t lanes = FirstLanes(count - i);
      const Floats x = lanes == FirstLanes(kLanes)
                           ? Floats::Load(values + i)
                           : Floats::Load(values + i, Mask::FromBits(lanes));
      const uint32_t found = Equal(x, largest).bits() & lanes;
      if (found != 0) return i + __builtin_ctz(found);
    }
    return 0;
  }

  // The largest value; -infinity if there is none but NaN.
  static float Max(const float* values, int64_t count) {
    Floats largest = Floats::Of(-__builtin_inff());
    ForEachVector<Floats>(count, [&](int64_t i, auto lanes) {
      // With the new value first, a NaN loses against what is there.
      largest = Within(lanes, Larger(Floats::Load(values + i, lanes), largest), largest);
    });
    return largest.MaxLanes();
  }

  static constexpr RowFunctions kFunctions = {.round = Round,
                                              .silu_multiply = SiluMultiply,
                                              .silu_multiply_to_bf16 = SiluMultiplyToBf16,
                                              .add = Add,
                                              .scale_by_sigmoid = ScaleBySigmoid,
                                              .norm = Norm,
                                              .rotate_interleaved = RotateInterleaved,
                                              .rotate_halves = RotateHalves,
                                              .combine = Combine,
                                              .softmax_scores = SoftmaxScores,
                                              .sigmoid_scores = SigmoidScores,
                                              .index_of_max = IndexOfMax};
};

}  // namespace conclave::kernels::cpu

#include "kernels/ref/attention.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "kernels/kv_layout.h"
#include "kernels/ref/functions.h"

namespace conclave::kernels::ref {
namespace {

void Store(WeightFormat format, std::byte* panel, int64_t index, float x) {
  if (format == WeightFormat::kF32) {
    reinterpret_cast<float*>(panel)[index] = Saturate(x, kMaxF32);
  } else {
    reinterpret_cast<bf16*>(panel)[index] = ToBf16(Saturate(x, kMaxBf16));
  }
}

// A chain of the class: over pairs, or over single elements.
struct Chain {
  WeightFormat format;
  float sum = 0.0f;

  // `x` and `w` give the element at an index; elements at or beyond `end` are zero.
  template <typename X, typename W>
  void Run(int64_t begin, int64_t end, X x, W w) {
    if (format == WeightFormat::kF32) {
      for (int64_t k = begin; k < end; ++k) sum = std::fma(x(k), w(k), sum);
      return;
    }
    for (int64_t k = begin; k < end; k += 2) {
      if (k + 1 < end) sum = FlushedFma(x(k + 1), w(k + 1), sum);
      sum = FlushedFma(x(k), w(k), sum);
    }
  }
};

// One query row of one head against the cache of its sequence.
struct HeadView {
  const KvShape& shape;
  const KvLayout& layout;
  const KvLayer& layer;
  std::span<const int32_t> blocks;
  int64_t kv_head;

  float Key(int64_t position, int64_t dim) const {
    const int64_t in_block = position % kBlockTokens;
    const std::byte* panel =
        layout.KeyPanel(layer, blocks[position / kBlockTokens], kv_head, in_block / kPanelOutputs);
    return PanelValue(layout.format, panel,
                      PanelIndex(layout.format, dim, in_block % kPanelOutputs));
  }
  float Value(int64_t position, int64_t dim) const {
    if (shape.value_is_key_prefix) return Key(position, dim);
    const std::byte* panel =
        layout.ValuePanel(layer, blocks[position / kBlockTokens], kv_head, dim / kPanelOutputs);
    return PanelValue(layout.format, panel,
                      PanelIndex(layout.format, position % kBlockTokens, dim % kPanelOutputs));
  }
};

// The running softmax of one row: steps 5 and after.
struct Running {
  bool empty = true;
  float max = 0.0f;
  float sum = 0.0f;
  std::vector<float> values;

  void Merge(float segment_max, float segment_sum, const std::vector<float>& segment_values) {
    if (empty) {
      *this = {false, segment_max, segment_sum, segment_values};
      return;
    }
    const float merged = std::max(max, segment_max);
    const float a = Exp(max - merged);
    const float b = Exp(segment_max - merged);
    sum = std::fma(segment_sum, b, sum * a);
    for (size_t d = 0; d < values.size(); ++d) {
      values[d] = std::fma(segment_values[d], b, values[d] * a);
    }
    max = merged;
  }

  void MergeSink(float logit) {
    const float merged = std::max(max, logit);
    const float a = Exp(max - merged);
    sum = sum * a + Exp(logit - merged);
    for (float& value : values) value = value * a;
    max = merged;
  }
};

void AttendRow(const AttentionParameters& parameters, const HeadView& view, int64_t position,
               const float* query, const float* sink, float* output) {
  const WeightFormat format = view.layout.format;
  const bool bf16_class = format == WeightFormat::kBf16;
  const int64_t key_dim = parameters.kv.key_dim;
  const int64_t value_dim = parameters.kv.value_dim;
  const int64_t window = parameters.window_tokens;
  const int64_t first_visible = window > 0 ? std::max<int64_t>(0, position - window + 1) : 0;
  const auto query_at = [&](int64_t d) {
    return bf16_class ? ToFloat(ToBf16(query[d])) : query[d];
  };

  Running running;
  std::vector<float> probabilities(kSegmentTokens);
  std::vector<float> values(static_cast<size_t>(value_dim));
  for (int64_t start = first_visible / kSegmentTokens * kSegmentTokens; start <= position;
       start += kSegmentTokens) {
    const int64_t begin = std::max(first_visible, start) - start;
    const int64_t end = std::min(position + 1, start + kSegmentTokens) - start;
    std::fill(probabilities.begin(), probabilities.end(), 0.0f);
    float largest = -std::numeric_limits<float>::infinity();
    for (int64_t t = begin; t < end; ++t) {
      Chain chain{format};
      chain.Run(0, key_dim, query_at, [&](int64_t d) { return view.Key(start + t, d); });
      probabilities[t] = chain.sum * parameters.scale;
      largest = std::max(largest, probabilities[t]);
    }
    LaneSum sum;
    for (int64_t t = begin; t < end; ++t) {
      probabilities[t] = Exp(probabilities[t] - largest);
      if (bf16_class) probabilities[t] = ToFloat(ToBf16(probabilities[t]));
      sum.Add(t, probabilities[t]);
    }
    for (int64_t d = 0; d < value_dim; ++d) {
      Chain chain{format};
      // From an even position: a pair that is half visible has probability 0 for the other half.
      chain.Run(
          begin / 2 * 2, end, [&](int64_t t) { return probabilities[t]; },
          [&](int64_t t) { return view.Value(start + t, d); });
      values[d] = chain.sum + 0.0f;
    }
    running.Merge(largest, sum.Total(), values);
  }
  if (sink != nullptr) running.MergeSink(*sink);
  const float inverse = 1.0f / running.sum;
  for (int64_t d = 0; d < value_dim; ++d) output[d] = running.values[d] * inverse;
}

}  // namespace

void WriteKv(const KvShape& shape, const KvLayer& layer, std::span<const SequenceRows> sequences,
             MatrixView<const float> keys, MatrixView<const float> values) {
  const KvLayout layout(shape);
  for (const SequenceRows& sequence : sequences) {
    for (int64_t i = 0; i < sequence.num_rows; ++i) {
      const int64_t position = sequence.first_position + i;
      const int64_t block = sequence.blocks[position / kBlockTokens];
      const int64_t in_block = position % kBlockTokens;
      for (int64_t h = 0; h < shape.num_kv_heads; ++h) {
        const float* key = keys.Row(sequence.first_row + i) + h * shape.key_dim;
        std::byte* key_panel = layout.KeyPanel(layer, block, h, in_block / kPanelOutputs);
        for (int64_t d = 0; d < shape.key_dim; ++d) {
          Store(layout.format, key_panel, PanelIndex(layout.format, d, in_block % kPanelOutputs),
                key[d]);
        }
        if (shape.value_is_key_prefix) continue;
        const float* value = values.Row(sequence.first_row + i) + h * shape.value_dim;
        for (int64_t d = 0; d < shape.value_dim; ++d) {
          Store(layout.format, layout.ValuePanel(layer, block, h, d / kPanelOutputs),
                PanelIndex(layout.format, in_block, d % kPanelOutputs), value[d]);
        }
      }
    }
  }
}

void Attention(const AttentionParameters& parameters, const KvLayer& layer,
               std::span<const SequenceRows> sequences, MatrixView<const float> queries,
               MatrixView<float> output) {
  const KvLayout layout(parameters.kv);
  const int64_t group = parameters.num_heads / parameters.kv.num_kv_heads;
  for (const SequenceRows& sequence : sequences) {
    for (int64_t i = 0; i < sequence.num_rows; ++i) {
      const int64_t row = sequence.first_row + i;
      for (int64_t h = 0; h < parameters.num_heads; ++h) {
        const HeadView view{parameters.kv, layout, layer, sequence.blocks, h / group};
        AttendRow(parameters, view, sequence.first_position + i,
                  queries.Row(row) + h * parameters.kv.key_dim,
                  parameters.sinks == nullptr ? nullptr : parameters.sinks + h,
                  output.Row(row) + h * parameters.kv.value_dim);
      }
    }
  }
}

}  // namespace conclave::kernels::ref

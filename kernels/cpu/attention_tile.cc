#include "kernels/cpu/attention_tile.h"

#include <algorithm>
#include <cstring>

#include "kernels/cpu/chain.h"
#include "kernels/cpu/rounded_rows.h"
#include "kernels/cpu/rows.h"
#include "kernels/cpu/softmax.h"
#include "kernels/cpu/turned_panel.h"

namespace conclave::kernels::cpu {
namespace {

constexpr int64_t kSegmentPanels = kSegmentTokens / kPanelOutputs;
constexpr int64_t kSegmentBlocks = kSegmentTokens / kBlockTokens;

int64_t RoundUp(int64_t x, int64_t unit) { return (x + unit - 1) / unit * unit; }

// The arrays of a tile, each row by row, 64-byte aligned.
struct TileScratch {
  TileScratch(const KvShape& shape, std::byte* base)
      : key_steps(NumSteps(TableFormatOf(shape.numerics), shape.key_dim)),
        columns(NumPanels(shape.value_dim) * kPanelOutputs) {
    std::byte* next = base;
    const auto take = [&](int64_t bytes) {
      std::byte* part = next;
      next += RoundUp(bytes, 64);
      return part;
    };
    constexpr int64_t kFloat = sizeof(float);
    queries = take(kTileQueries * key_steps * kStepRowBytes);
    scores = reinterpret_cast<float*>(take(kTileQueries * kSegmentTokens * kFloat));
    probabilities = take(kTileQueries * kSegmentTokens * kFloat);
    segment_values = reinterpret_cast<float*>(take(kTileQueries * columns * kFloat));
    values = reinterpret_cast<float*>(take(kTileQueries * columns * kFloat));
    if (shape.value_is_key_prefix) {
      turned = take(kSegmentBlocks * kTilePanels *
                    static_cast<int64_t>(KvLayout(shape).value_panel_bytes));
    }
    bytes = static_cast<size_t>(next - base);
  }

  int64_t key_steps;
  int64_t columns;              // value_dim, to whole panels
  std::byte* queries;           // [queries][key_steps * 4 bytes]
  float* scores;                // [queries][kSegmentTokens]
  std::byte* probabilities;     // [queries][kSegmentTokens] f32 or bf16
  float* segment_values;        // [queries][columns]
  float* values;                // [queries][columns]
  std::byte* turned = nullptr;  // [kSegmentBlocks][kTilePanels] value panels, where keys hold them
  size_t bytes = 0;
};

class TileRun {
 public:
  TileRun(CpuLevel level, const AttentionParameters& parameters, const KvLayout& layout,
          const KvLayer& layer, const SequenceRows& sequence, const AttentionTile& tile,
          std::byte* scratch)
      : parameters_(parameters),
        layout_(layout),
        layer_(layer),
        sequence_(sequence),
        tile_(tile),
        group_(parameters.num_heads / parameters.kv.num_kv_heads),
        chain_(ChainFor(level, layout.format)),
        rows_(RowsFor(level)),
        softmax_(SoftmaxFor(level)),
        turn_panel_(PanelTurnFor(level)),
        scratch_(parameters.kv, scratch),
        probability_bytes_(layout.format == WeightFormat::kF32 ? 4 : 2) {}

  void Run(MatrixView<const float> queries, MatrixView<float> output) {
    LoadQueries(queries);
    const int64_t last = PositionOf(tile_.num_queries - 1);
    for (int64_t start = FirstVisible(PositionOf(0)) / kSegmentTokens * kSegmentTokens;
         start <= last; start += kSegmentTokens) {
      // What any query of the tile sees of this segment, in whole blocks.
      const int64_t begin = std::max(FirstVisible(PositionOf(0)), start) - start;
      const int64_t end = std::min(last + 1, start + kSegmentTokens) - start;
      Score(start, begin, end);
      Weigh(start, begin / kBlockTokens * kBlockTokens, RoundUp(end, kBlockTokens));
      SumValues(start, begin, end);
      Merge(start);
    }
    for (int64_t i = 0; i < tile_.num_queries; ++i) {
      RunningRow row{max_[i], sum_[i], scratch_.values + i * scratch_.columns};
      const int64_t head = HeadOf(i);
      softmax_.finish(parameters_.sinks == nullptr ? nullptr : parameters_.sinks + head, row,
                      parameters_.kv.value_dim,
                      output.Row(RowOf(i)) + head * parameters_.kv.value_dim);
    }
  }

 private:
  int64_t TokenOf(int64_t i) const { return (tile_.first_query + i) / group_; }
  int64_t RowOf(int64_t i) const { return sequence_.first_row + TokenOf(i); }
  int64_t PositionOf(int64_t i) const { return sequence_.first_position + TokenOf(i); }
  int64_t HeadOf(int64_t i) const {
    return tile_.kv_head * group_ + (tile_.first_query + i) % group_;
  }
  int64_t FirstVisible(int64_t position) const {
    return parameters_.window_tokens > 0
               ? std::max<int64_t>(0, position - parameters_.window_tokens + 1)
               : 0;
  }
  // The positions of the segment that query i sees; empty: begin >= end.
  SegmentRange VisibleTo(int64_t i, int64_t start) const {
    const int64_t position = PositionOf(i);
    SegmentRange range;
    range.begin = std::max(FirstVisible(position), start) - start;
    range.end = std::min(position + 1, start + kSegmentTokens) - start;
    return range;
  }

  void LoadQueries(MatrixView<const float> queries) {
    const int64_t key_dim = parameters_.kv.key_dim;
    for (int64_t i = 0; i < tile_.num_queries; ++i) {
      const float* query = queries.Row(RowOf(i)) + HeadOf(i) * key_dim;
      std::byte* row = scratch_.queries + i * scratch_.key_steps * kStepRowBytes;
      if (layout_.format == WeightFormat::kF32) {
        std::memcpy(row, query, static_cast<size_t>(key_dim) * sizeof(float));
      } else {
        rows_.round(query, key_dim, 2 * scratch_.key_steps, row);
      }
    }
  }

  // scores = queries x keys, for the panels of 16 positions that touch [begin, end).
  void Score(int64_t start, int64_t begin, int64_t end) {
    const int64_t first = begin / kPanelOutputs;
    const int64_t last = (end + kPanelOutputs - 1) / kPanelOutputs;
    const std::byte* panels[kSegmentPanels];
    for (int64_t p = first; p < last; ++p) {
      const int64_t position = start + p * kPanelOutputs;
      panels[p] = layout_.KeyPanel(layer_, sequence_.blocks[position / kBlockTokens], tile_.kv_head,
                                   p % kBlockKeyPanels);
    }
    ChainBlock block;
    block.format = layout_.format;
    block.input = scratch_.queries;
    block.input_stride = scratch_.key_steps * kStepRowBytes;
    block.num_rows = tile_.num_queries;
    block.steps = scratch_.key_steps;
    block.panels = panels + first;
    block.num_panels = last - first;
    block.output = scratch_.scores + first * kPanelOutputs;
    block.output_stride = kSegmentTokens;
    block.num_outputs = block.num_panels * kPanelOutputs;
    chain_(block);
  }

  // Softmax of every row; probabilities in [first, last), zero where the row does not see.
  void Weigh(int64_t start, int64_t first, int64_t last) {
    for (int64_t i = 0; i < tile_.num_queries; ++i) {
      SegmentRange range = VisibleTo(i, start);
      range.first = first;
      range.last = last;
      std::byte* row = scratch_.probabilities + i * kSegmentTokens * probability_bytes_;
      if (range.begin >= range.end) {
        std::memset(row + first * probability_bytes_, 0,
                    static_cast<size_t>((last - first) * probability_bytes_));
        continue;
      }
      segment_[i] = softmax_.segment(layout_.format, range, parameters_.scale,
                                     scratch_.scores + i * kSegmentTokens, row);
    }
  }

  // segment_values = probabilities x values, through the blocks that hold [begin, end).
  void SumValues(int64_t start, int64_t begin, int64_t end) {
    const int64_t num_panels = scratch_.columns / kPanelOutputs;
    const int64_t first = begin / kBlockTokens;
    const int64_t last = (end + kBlockTokens - 1) / kBlockTokens;
    for (int64_t panel = 0; panel < num_panels; panel += kTilePanels) {
      const std::byte* panels[kSegmentBlocks * kTilePanels];
      ChainBlock block;
      block.format = layout_.format;
      block.input = scratch_.probabilities + first * kBlockTokens * probability_bytes_;
      block.input_stride = kSegmentTokens * probability_bytes_;
      block.num_rows = tile_.num_queries;
      block.steps = NumSteps(layout_.format, kBlockTokens);
      block.panels = panels;
      block.num_panels = std::min(kTilePanels, num_panels - panel);
      block.num_runs = last - first;
      block.output = scratch_.segment_values + panel * kPanelOutputs;
      block.output_stride = scratch_.columns;
      block.num_outputs = block.num_panels * kPanelOutputs;
      for (int64_t run = 0; run < block.num_runs; ++run) {
        const int64_t id = sequence_.blocks[start / kBlockTokens + first + run];
        for (int64_t p = 0; p < block.num_panels; ++p) {
          const int64_t index = run * block.num_panels + p;
          panels[index] = scratch_.turned == nullptr
                              ? layout_.ValuePanel(layer_, id, tile_.kv_head, panel + p)
                              : TurnKeys(id, panel + p, index);
        }
      }
      chain_(block);
    }
  }

  // A block's value panel, made from its keys.
  const std::byte* TurnKeys(int64_t block, int64_t panel, int64_t index) const {
    const PanelTurn turn{
        .format = layout_.format,
        .key_panels = {layout_.KeyPanel(layer_, block, tile_.kv_head, 0),
                       layout_.KeyPanel(layer_, block, tile_.kv_head, 1)},
        .key_dim = parameters_.kv.key_dim,
        .first = panel * kPanelOutputs,
        .value_panel = scratch_.turned + static_cast<size_t>(index) * layout_.value_panel_bytes};
    turn_panel_(turn);
    return turn.value_panel;
  }

  void Merge(int64_t start) {
    for (int64_t i = 0; i < tile_.num_queries; ++i) {
      const SegmentRange range = VisibleTo(i, start);
      if (range.begin >= range.end) continue;
      RunningRow row{max_[i], sum_[i], scratch_.values + i * scratch_.columns};
      const bool first = start <= FirstVisible(PositionOf(i));
      softmax_.merge(first, segment_[i], scratch_.segment_values + i * scratch_.columns,
                     scratch_.columns, row);
      max_[i] = row.max;
      sum_[i] = row.sum;
    }
  }

  const AttentionParameters& parameters_;
  const KvLayout& layout_;
  const KvLayer& layer_;
  const SequenceRows& sequence_;
  const AttentionTile& tile_;
  const int64_t group_;  // query heads of a KV head
  const ChainFunction chain_;
  const RowFunctions& rows_;
  const SoftmaxFunctions& softmax_;
  const PanelTurnFunction turn_panel_;
  const TileScratch scratch_;
  const int64_t probability_bytes_;
  SegmentSum segment_[kTileQueries];
  float max_[kTileQueries] = {};
  float sum_[kTileQueries] = {};
};

}  // namespace

size_t AttentionTileBytes(const KvShape& shape) { return TileScratch(shape, nullptr).bytes; }

void AttendTile(CpuLevel level, const AttentionParameters& parameters, const KvLayout& layout,
                const KvLayer& layer, const SequenceRows& sequence, const AttentionTile& tile,
                MatrixView<const float> queries, MatrixView<float> output, std::byte* scratch) {
  TileRun(level, parameters, layout, layer, sequence, tile, scratch).Run(queries, output);
}

}  // namespace conclave::kernels::cpu

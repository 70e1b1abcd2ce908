#include "kernels/ffn.h"

#include <algorithm>

#include "kernels/cpu/chain.h"
#include "kernels/cpu/rounded_rows.h"
#include "kernels/cpu/rows.h"
#include "kernels/grain.h"
#include "kernels/panel.h"
#include "kernels/quantize.h"
#include "kernels/ref/matmul.h"

namespace conclave::kernels {
namespace {

// Panels of `gate` and as many of `up` in a unit of work: together at least a full register tile,
// and whole groups of the inputs of `down`, whose format is given.
int64_t HiddenPanels(WeightFormat down) {
  return std::max(cpu::kTilePanels / 2, down.group / kPanelOutputs);
}
constexpr int64_t kMaxHiddenPanels = kMaxGroup / kPanelOutputs;

// Rows whose gate and up sums a thread holds before it multiplies them: of 48 rows 24 KiB, or twice
// that with groups of 128. More rows read the weights again, which by then costs less than the
// arithmetic.
constexpr int64_t kHiddenRows = 48;

// One unit: some panels of one expert.
struct Unit {
  size_t expert = 0;
  int64_t group = 0;  // of panels
};

// Numbers the units of all experts that have rows: unit u belongs to expert e with starts[e] <= u <
// starts[e + 1].
class Units {
 public:
  // `starts` has room for experts.size() + 1. `outputs(e)` are the outputs of expert e, `panels`
  // those of a unit.
  template <typename Outputs>
  Units(std::span<int64_t> starts, const ExpertBatch& batch, int64_t panels, Outputs outputs)
      : starts_(starts) {
    starts_[0] = 0;
    for (size_t e = 0; e + 1 < starts_.size(); ++e) {
      const bool used = batch.first_row[e + 1] > batch.first_row[e];
      const int64_t units = (NumPanels(outputs(e)) + panels - 1) / panels;
      starts_[e + 1] = starts_[e] + (used ? units : 0);
    }
  }

  int64_t count() const { return starts_.back(); }

  Unit At(int64_t unit) const {
    const auto after = std::upper_bound(starts_.begin(), starts_.end(), unit);
    const size_t expert = static_cast<size_t>(after - starts_.begin()) - 1;
    return {expert, unit - starts_[expert]};
  }

 private:
  std::span<int64_t> starts_;
};

// The chains of some rows over the panels [first, first + count) of a matrix; the caller adds
// output.
cpu::ChainBlock BlockOf(WeightFormat format, const cpu::RoundedRows& rows, int64_t first_row,
                        int64_t num_rows) {
  cpu::ChainBlock block;
  block.format = format;
  block.input = rows.data + first_row * rows.stride;
  block.input_stride = rows.stride;
  block.num_rows = num_rows;
  block.steps = rows.steps;
  return block;
}

int64_t PanelBytesOf(const PackedMatrix& matrix) {
  return static_cast<int64_t>(PanelBytes(matrix.format, matrix.num_inputs));
}

const std::byte* PanelOf(const PackedMatrix& matrix, int64_t panel) {
  return matrix.data + panel * PanelBytesOf(matrix);
}

// silu(gate) * up of `columns` columns from `column` on, as inputs of a matrix of format `down`,
// into a row of them. `column` is a multiple of the group.
void WriteHidden(CpuLevel level, WeightFormat down, const float* gate, const float* up,
                 int64_t column, int64_t columns, std::byte* row) {
  const cpu::RowFunctions& rows = cpu::RowsFor(level);
  switch (down.type) {
    case WeightType::kF32:
      rows.silu_multiply(gate, up, columns, reinterpret_cast<float*>(row) + column);
      return;
    case WeightType::kBf16:
      rows.silu_multiply_to_bf16(gate, up, columns, reinterpret_cast<bf16*>(row) + column);
      return;
    case WeightType::kInt8:
    case WeightType::kInt4:
      break;
  }
  float products[kMaxHiddenPanels * kPanelOutputs];
  rows.silu_multiply(gate, up, columns, products);
  cpu::RoundRowFor(level, down, products, columns, row + cpu::RoundedRowBytes(down, column));
}

// silu(gate(x)) * up(x) of a unit's columns, as inputs of `down`.
void RunHidden(const FfnWeights& weights, CpuLevel level, const cpu::RoundedRows& input,
               int64_t first_row, int64_t end_row, int64_t group, const cpu::RoundedRows& hidden) {
  const int64_t unit_panels = HiddenPanels(weights.down.format);
  const int64_t first = group * unit_panels;
  const int64_t count = std::min(unit_panels, NumPanels(weights.gate.num_outputs) - first);
  const int64_t column = first * kPanelOutputs;
  const int64_t columns = std::min(count * kPanelOutputs, weights.gate.num_outputs - column);
  const std::byte* panels[2 * kMaxHiddenPanels];
  for (int64_t p = 0; p < count; ++p) {
    panels[p] = PanelOf(weights.gate, first + p);
    panels[count + p] = PanelOf(weights.up, first + p);
  }
  const int64_t up_column = count * kPanelOutputs;
  // [rows][gate columns, up columns]
  alignas(64) float sums[kHiddenRows * 2 * kMaxHiddenPanels * kPanelOutputs];
  for (int64_t row = first_row; row < end_row; row += kHiddenRows) {
    cpu::ChainBlock block =
        BlockOf(weights.gate.format, input, row, std::min(kHiddenRows, end_row - row));
    block.panels = panels;
    block.num_panels = 2 * count;
    if (row + kHiddenRows >= end_row) {
      block.next_panels = unit_panels * PanelBytesOf(weights.gate);
    }
    block.output = sums;
    block.output_stride = 2 * up_column;
    block.num_outputs = 2 * up_column;
    const auto run = [&] { cpu::RunChain(cpu::ChainFor(level, block.format), block); };
    if (weights.gate.format == weights.up.format) {
      run();
    } else {  // one of them has zero points
      block.num_panels = count;
      block.num_outputs = up_column;
      run();
      block.format = weights.up.format;
      block.panels = panels + count;
      block.output = sums + up_column;
      run();
    }
    for (int64_t r = 0; r < block.num_rows; ++r) {
      const float* gate = sums + r * block.output_stride;
      WriteHidden(level, weights.down.format, gate, gate + up_column, column, columns,
                  const_cast<std::byte*>(hidden.data) + (row + r) * hidden.stride);
    }
  }
}

void RunDown(const PackedMatrix& down, CpuLevel level, const cpu::RoundedRows& hidden,
             int64_t first_row, int64_t end_row, int64_t group, MatrixView<float> output) {
  const int64_t first = group * cpu::kTilePanels;
  const int64_t count = std::min(cpu::kTilePanels, NumPanels(down.num_outputs) - first);
  const std::byte* panels[cpu::kTilePanels];
  for (int64_t p = 0; p < count; ++p) panels[p] = PanelOf(down, first + p);
  cpu::ChainBlock block = BlockOf(down.format, hidden, first_row, end_row - first_row);
  block.panels = panels;
  block.num_panels = count;
  block.next_panels = cpu::kTilePanels * PanelBytesOf(down);
  block.output = output.Row(first_row) + first * kPanelOutputs;
  block.output_stride = output.stride;
  block.num_outputs = std::min(count * kPanelOutputs, down.num_outputs - first * kPanelOutputs);
  cpu::RunChain(cpu::ChainFor(level, block.format), block);
}

}  // namespace

void ExpertFfn(std::span<const FfnWeights> experts, const ExpertBatch& batch, Context& context) {
  if (context.level() == CpuLevel::kReference) {
    ref::ExpertFfn(experts, batch);
    return;
  }
  if (experts.empty() || batch.input.rows == 0) return;
  const WeightFormat format = experts[0].gate.format;
  const WeightFormat down = experts[0].down.format;
  const int64_t intermediate = experts[0].gate.num_outputs;
  const cpu::RoundedRows input =
      cpu::RoundRowsFor(format, batch.input, ScratchSlot::kInput, context);
  const CpuLevel level = context.level();
  const int64_t row_bytes = cpu::RoundedRowBytes(down, intermediate);
  std::byte* hidden_data =
      context.Scratch(ScratchSlot::kHidden, static_cast<size_t>(batch.input.rows * row_bytes));
  const cpu::RoundedRows hidden{hidden_data, row_bytes, NumSteps(down, intermediate)};
  if (down == WeightFormat::kBf16 && intermediate % 2 != 0) {
    for (int64_t r = 1; r <= batch.input.rows; ++r) {
      reinterpret_cast<bf16*>(hidden_data + r * row_bytes)[-1] = bf16{};
    }
  }
  const std::span<int64_t> starts(reinterpret_cast<int64_t*>(context.Scratch(
                                      ScratchSlot::kMisc, (experts.size() + 1) * sizeof(int64_t))),
                                  experts.size() + 1);

  const Units hidden_units(starts, batch, HiddenPanels(down),
                           [&](size_t e) { return experts[e].gate.num_outputs; });
  const auto grain = [&](int64_t inputs) {
    const int64_t weights = inputs * cpu::kTilePanels * kPanelOutputs;
    const int64_t rows_per_expert = batch.input.rows / std::ssize(experts) + 1;
    return Grain(2 * weights, 2 * weights * rows_per_expert);
  };
  context.pool().ParallelFor(hidden_units.count(), grain(experts[0].gate.num_inputs),
                             [&](int64_t begin, int64_t end, int) {
                               for (int64_t u = begin; u < end; ++u) {
                                 const Unit unit = hidden_units.At(u);
                                 RunHidden(experts[unit.expert], level, input,
                                           batch.first_row[unit.expert],
                                           batch.first_row[unit.expert + 1], unit.group, hidden);
                               }
                             });

  const Units down_units(starts, batch, cpu::kTilePanels,
                         [&](size_t e) { return experts[e].down.num_outputs; });
  context.pool().ParallelFor(
      down_units.count(), grain(intermediate), [&](int64_t begin, int64_t end, int) {
        for (int64_t u = begin; u < end; ++u) {
          const Unit unit = down_units.At(u);
          RunDown(experts[unit.expert].down, level, hidden, batch.first_row[unit.expert],
                  batch.first_row[unit.expert + 1], unit.group, batch.output);
        }
      });
}

void FeedForward(const FfnWeights& weights, MatrixView<const float> input, MatrixView<float> output,
                 Context& context) {
  const int32_t first_row[2] = {0, static_cast<int32_t>(input.rows)};
  ExpertFfn({&weights, 1}, {first_row, input, output}, context);
}

}  // namespace conclave::kernels

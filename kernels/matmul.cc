#include "kernels/matmul.h"

#include <algorithm>

#include "kernels/cpu/chain.h"
#include "kernels/cpu/rounded_rows.h"
#include "kernels/cpu/rows.h"
#include "kernels/grain.h"
#include "kernels/panel.h"
#include "kernels/ref/matmul.h"

namespace conclave::kernels {
namespace {

// `bias` is [weight.num_outputs] or null.
void Run(const PackedMatrix& weight, const float* bias, MatrixView<const float> input,
         MatrixView<float> output, Context& context) {
  if (context.level() == CpuLevel::kReference) {
    ref::Matmul(weight, bias, input, output);
    return;
  }
  if (input.rows == 0) return;
  const cpu::ChainFunction chain = cpu::ChainFor(context.level(), weight.format);
  const cpu::RoundedRows rows =
      cpu::RoundRowsFor(weight.format, {input.data, input.rows, weight.num_inputs, input.stride},
                        ScratchSlot::kInput, context);
  const size_t panel_bytes = PanelBytes(weight.format, weight.num_inputs);
  const int64_t num_panels = NumPanels(weight.num_outputs);
  // The unit of work is a group of panels, so that no thread gets a group too narrow for its
  // registers.
  const int64_t groups = (num_panels + cpu::kTilePanels - 1) / cpu::kTilePanels;
  const int64_t group_bytes = static_cast<int64_t>(panel_bytes) * cpu::kTilePanels;
  const int64_t group_operations =
      2 * input.rows * weight.num_inputs * cpu::kTilePanels * kPanelOutputs;
  context.pool().ParallelFor(
      groups, Grain(group_bytes, group_operations), [&](int64_t begin, int64_t end, int) {
        for (int64_t group = begin; group < end; ++group) {
          const int64_t first = group * cpu::kTilePanels;
          const int64_t count = std::min(cpu::kTilePanels, num_panels - first);
          const int64_t first_output = first * kPanelOutputs;
          const std::byte* panels[cpu::kTilePanels];
          for (int64_t p = 0; p < count; ++p) {
            panels[p] = weight.data + static_cast<size_t>(first + p) * panel_bytes;
          }
          cpu::ChainBlock block;
          block.format = weight.format;
          block.input = rows.data;
          block.input_stride = rows.stride;
          block.num_rows = input.rows;
          block.steps = rows.steps;
          block.panels = panels;
          block.num_panels = count;
          block.next_panels = group_bytes;
          block.output = output.data + first_output;
          block.output_stride = output.stride;
          block.num_outputs = std::min(count * kPanelOutputs, weight.num_outputs - first_output);
          cpu::RunChain(chain, block);
          if (bias == nullptr) continue;
          for (int64_t r = 0; r < input.rows; ++r) {
            float* row = output.Row(r) + first_output;
            cpu::RowsFor(context.level()).add(row, bias + first_output, block.num_outputs, row);
          }
        }
      });
}

}  // namespace

void Matmul(const PackedMatrix& weight, MatrixView<const float> input, MatrixView<float> output,
            Context& context) {
  Run(weight, nullptr, input, output, context);
}

void MatmulBias(const PackedMatrix& weight, const float* bias, MatrixView<const float> input,
                MatrixView<float> output, Context& context) {
  Run(weight, bias, input, output, context);
}

}  // namespace conclave::kernels

#include <algorithm>

#include "kernels/attention.h"
#include "kernels/cpu/chain.h"
#include "kernels/cpu/rounded_rows.h"
#include "kernels/grain.h"
#include "kernels/panel.h"
#include "kernels/ref/matmul.h"

namespace conclave::kernels {
namespace {

// One head's product: its rows as the chain wants them, then all its panels.
void RunHead(cpu::ChainFunction chain, const PackedMatrix& weight, const std::byte* input,
             int64_t input_stride, MatrixView<float> output) {
  const size_t panel_bytes = PanelBytes(weight.format, weight.num_inputs);
  const int64_t num_panels = NumPanels(weight.num_outputs);
  for (int64_t first = 0; first < num_panels; first += cpu::kTilePanels) {
    const int64_t count = std::min(cpu::kTilePanels, num_panels - first);
    const std::byte* panels[cpu::kTilePanels];
    for (int64_t p = 0; p < count; ++p) {
      panels[p] = weight.data + static_cast<size_t>(first + p) * panel_bytes;
    }
    cpu::ChainBlock block;
    block.format = weight.format;
    block.input = input;
    block.input_stride = input_stride;
    block.num_rows = output.rows;
    block.steps = NumSteps(weight.format, weight.num_inputs);
    block.panels = panels;
    block.num_panels = count;
    block.output = output.data + first * kPanelOutputs;
    block.output_stride = output.stride;
    block.num_outputs = std::min(count * kPanelOutputs, weight.num_outputs - first * kPanelOutputs);
    cpu::RunChain(chain, block);
  }
}

}  // namespace

void HeadMatmul(std::span<const PackedMatrix> weights, MatrixView<const float> input,
                int64_t input_head_stride, MatrixView<float> output, int64_t output_head_stride,
                Context& context) {
  if (context.level() == CpuLevel::kReference) {
    ref::HeadMatmul(weights, input, input_head_stride, output, output_head_stride);
    return;
  }
  if (weights.empty() || input.rows == 0) return;
  // Every head has the shape and the format of the first.
  const WeightFormat format = weights[0].format;
  const int64_t num_inputs = weights[0].num_inputs;
  const int64_t row_bytes = cpu::RoundedRowBytes(format, num_inputs);
  const cpu::ChainFunction chain = cpu::ChainFor(context.level(), format);
  std::byte* rounded = nullptr;  // [heads][rows][row_bytes]
  if (format != WeightFormat::kF32) {
    rounded = context.Scratch(ScratchSlot::kInput,
                              static_cast<size_t>(row_bytes * input.rows) * weights.size());
  }
  const int64_t num_heads = static_cast<int64_t>(weights.size());
  const int64_t head_weights = weights[0].num_outputs * num_inputs;
  const int64_t grain = Grain(2 * head_weights, 2 * head_weights * input.rows);
  context.pool().ParallelFor(num_heads, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t head = begin; head < end; ++head) {
      const float* first = input.data + head * input_head_stride;
      const std::byte* rows = reinterpret_cast<const std::byte*>(first);
      int64_t stride = input.stride * static_cast<int64_t>(sizeof(float));
      if (format != WeightFormat::kF32) {
        std::byte* own = rounded + head * input.rows * row_bytes;
        for (int64_t r = 0; r < input.rows; ++r) {
          cpu::RoundRowFor(context.level(), format, first + r * input.stride, num_inputs,
                           own + r * row_bytes);
        }
        rows = own;
        stride = row_bytes;
      }
      RunHead(chain, weights[static_cast<size_t>(head)], rows, stride,
              {output.data + head * output_head_stride, input.rows,
               weights[static_cast<size_t>(head)].num_outputs, output.stride});
    }
  });
}

}  // namespace conclave::kernels

#include "kernels/ref/matmul.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <vector>

#include "kernels/panel.h"
#include "kernels/ref/functions.h"
#include "kernels/ref/quantize.h"

namespace conclave::kernels::ref {
namespace {

float Weight(const PackedMatrix& weight, int64_t output, int64_t input) {
  const std::byte* panel =
      weight.data + (output / kPanelOutputs) * PanelBytes(weight.format, weight.num_inputs);
  return PanelValue(weight.format, panel, PanelIndex(weight.format, input, output % kPanelOutputs));
}

float ChainF32(const PackedMatrix& weight, int64_t output, const float* row) {
  float sum = 0.0f;
  for (int64_t k = 0; k < weight.num_inputs; ++k) {
    sum = std::fma(row[k], Weight(weight, output, k), sum);
  }
  return sum;
}

float ChainBf16(const PackedMatrix& weight, int64_t output, const float* row) {
  const int64_t num_inputs = weight.num_inputs;
  float sum = 0.0f;
  for (int64_t k = 0; k < num_inputs; k += 2) {
    const bool has_odd = k + 1 < num_inputs;
    const float odd_input = has_odd ? ToFloat(ToBf16(row[k + 1])) : 0.0f;
    const float odd_weight = has_odd ? Weight(weight, output, k + 1) : 0.0f;
    sum = FlushedFma(odd_input, odd_weight, sum);
    sum = FlushedFma(ToFloat(ToBf16(row[k])), Weight(weight, output, k), sum);
  }
  return sum;
}

// A row's inputs as an integer matrix takes them.
struct QuantizedRow {
  QuantizedRow(WeightFormat format, const float* row, int64_t num_inputs)
      : integers(static_cast<size_t>(NumSteps(format, num_inputs) * format.group)) {
    for (int64_t first = 0; first < num_inputs; first += format.group) {
      const int64_t count = std::min<int64_t>(format.group, num_inputs - first);
      scales.push_back(QuantizeGroup(WeightType::kInt8, {row + first, static_cast<size_t>(count)},
                                     integers.data() + first));
    }
  }
  std::vector<int8_t> integers;  // zeros beyond num_inputs
  std::vector<float> scales;     // of the groups
};

float ChainIntegers(const PackedMatrix& weight, int64_t output, const QuantizedRow& row) {
  const WeightFormat format = weight.format;
  const std::byte* panel =
      weight.data + (output / kPanelOutputs) * PanelBytes(format, weight.num_inputs);
  const int64_t lane = output % kPanelOutputs;
  float sum = 0.0f;
  for (size_t g = 0; g < row.scales.size(); ++g) {
    const int64_t step = static_cast<int64_t>(g);
    const GroupPanel group(format, panel + step * StepPanelBytes(format));
    int32_t dot = 0;
    for (int64_t k = 0; k < format.group; ++k) {
      dot += row.integers[static_cast<size_t>(step * format.group + k)] * group.value(k, lane);
    }
    sum = std::fma(static_cast<float>(dot), row.scales[g] * group.scale(lane), sum);
  }
  return sum;
}

MatrixView<const float> ReadOnly(MatrixView<float> view) {
  return {view.data, view.rows, view.cols, view.stride};
}

}  // namespace

void Matmul(const PackedMatrix& weight, const float* bias, MatrixView<const float> input,
            MatrixView<float> output) {
  for (int64_t m = 0; m < input.rows; ++m) {
    const float* row = input.Row(m);
    std::optional<QuantizedRow> quantized;
    if (weight.format.integers()) quantized.emplace(weight.format, row, weight.num_inputs);
    for (int64_t n = 0; n < weight.num_outputs; ++n) {
      float sum = quantized.has_value()                 ? ChainIntegers(weight, n, *quantized)
                  : weight.format == WeightFormat::kF32 ? ChainF32(weight, n, row)
                                                        : ChainBf16(weight, n, row);
      if (bias != nullptr) sum = sum + bias[n];
      output.Row(m)[n] = sum;
    }
  }
}

void HeadMatmul(std::span<const PackedMatrix> weights, MatrixView<const float> input,
                int64_t input_head_stride, MatrixView<float> output, int64_t output_head_stride) {
  for (size_t h = 0; h < weights.size(); ++h) {
    const int64_t head = static_cast<int64_t>(h);
    Matmul(weights[h], nullptr,
           {input.data + head * input_head_stride, input.rows, weights[h].num_inputs, input.stride},
           {output.data + head * output_head_stride, output.rows, weights[h].num_outputs,
            output.stride});
  }
}

void FeedForward(const FfnWeights& weights, MatrixView<const float> input,
                 MatrixView<float> output) {
  const int64_t intermediate = weights.gate.num_outputs;
  std::vector<float> gate(static_cast<size_t>(input.rows * intermediate));
  std::vector<float> up(gate.size());
  const MatrixView<float> gate_view = DenseView(gate.data(), input.rows, intermediate);
  const MatrixView<float> up_view = DenseView(up.data(), input.rows, intermediate);
  Matmul(weights.gate, nullptr, input, gate_view);
  Matmul(weights.up, nullptr, input, up_view);
  for (size_t i = 0; i < gate.size(); ++i) gate[i] = Silu(gate[i]) * up[i];
  Matmul(weights.down, nullptr, ReadOnly(gate_view), output);
}

void ExpertFfn(std::span<const FfnWeights> experts, const ExpertBatch& batch) {
  for (size_t e = 0; e < experts.size(); ++e) {
    const int64_t first = batch.first_row[e];
    const int64_t rows = batch.first_row[e + 1] - first;
    if (rows == 0) continue;
    FeedForward(experts[e], {batch.input.Row(first), rows, batch.input.cols, batch.input.stride},
                {batch.output.Row(first), rows, batch.output.cols, batch.output.stride});
  }
}

}  // namespace conclave::kernels::ref

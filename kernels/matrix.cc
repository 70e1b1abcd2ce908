#include "kernels/matrix.h"

#include "kernels/panel.h"

namespace conclave::kernels {

std::string_view NumericsClassName(NumericsClass numerics) {
  switch (numerics) {
    case NumericsClass::kF32:
      return "f32";
    case NumericsClass::kBf16:
      return "bf16";
  }
  return "unknown";
}

WeightFormat WeightFormatOf(NumericsClass numerics) {
  return numerics == NumericsClass::kF32 ? WeightFormat::kF32 : WeightFormat::kBf16;
}

size_t PackedBytes(WeightFormat format, int64_t num_outputs, int64_t num_inputs) {
  return static_cast<size_t>(NumPanels(num_outputs)) * PanelBytes(format, num_inputs);
}

void PackRows(WeightFormat format, int64_t /*num_outputs*/, int64_t num_inputs,
              int64_t first_output, MatrixView<const float> rows, std::byte* packed) {
  const size_t panel_bytes = PanelBytes(format, num_inputs);
  for (int64_t r = 0; r < rows.rows; ++r) {
    const int64_t output = first_output + r;
    const int64_t lane = output % kPanelOutputs;
    std::byte* panel = packed + static_cast<size_t>(output / kPanelOutputs) * panel_bytes;
    const float* row = rows.Row(r);
    if (format == WeightFormat::kF32) {
      float* values = reinterpret_cast<float*>(panel);
      for (int64_t k = 0; k < num_inputs; ++k) values[PanelIndex(format, k, lane)] = row[k];
    } else {
      bf16* values = reinterpret_cast<bf16*>(panel);
      for (int64_t k = 0; k < num_inputs; ++k) values[PanelIndex(format, k, lane)] = ToBf16(row[k]);
    }
  }
}

}  // namespace conclave::kernels

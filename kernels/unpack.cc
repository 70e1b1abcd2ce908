#include "kernels/unpack.h"

#include <algorithm>

#include "kernels/panel.h"

namespace conclave::kernels {

void UnpackRows(const PackedMatrix& matrix, int64_t first_output, MatrixView<float> rows) {
  const WeightFormat format = matrix.format;
  const size_t panel_bytes = PanelBytes(format, matrix.num_inputs);
  for (int64_t r = 0; r < rows.rows; ++r) {
    const int64_t lane = (first_output + r) % kPanelOutputs;
    const std::byte* panel =
        matrix.data + static_cast<size_t>((first_output + r) / kPanelOutputs) * panel_bytes;
    float* row = rows.Row(r);
    if (!format.integers()) {
      for (int64_t k = 0; k < matrix.num_inputs; ++k) {
        row[k] = PanelValue(format, panel, PanelIndex(format, k, lane));
      }
      continue;
    }
    for (int64_t first = 0; first < matrix.num_inputs; first += format.group) {
      const GroupPanel group(format, panel + first / format.group * StepPanelBytes(format));
      const int64_t count = std::min<int64_t>(format.group, matrix.num_inputs - first);
      for (int64_t k = 0; k < count; ++k) {
        row[first + k] = group.scale(lane) * static_cast<float>(group.value(k, lane));
      }
    }
  }
}

}  // namespace conclave::kernels

#include "kernels/matrix.h"

#include <algorithm>

#include "kernels/panel.h"
#include "kernels/quantize.h"

namespace conclave::kernels {
namespace {

// Inputs that are packed for all rows of a panel before the next ones: what they are written to
// stays in the first cache meanwhile.
constexpr int64_t kPackInputs = 32;

// Rows of one panel; `lane` points to its first element of their first lane.
void PackF32(MatrixView<const float> rows, float* lane) {
  for (int64_t first = 0; first < rows.cols; first += kPackInputs) {
    const int64_t end = std::min(first + kPackInputs, rows.cols);
    for (int64_t r = 0; r < rows.rows; ++r) {
      const float* row = rows.Row(r);
      for (int64_t k = first; k < end; ++k) lane[k * kPanelOutputs + r] = row[k];
    }
  }
}

// The same in words of two inputs; an odd last input is paired with a zero.
void PackBf16(MatrixView<const float> rows, uint32_t* lane) {
  for (int64_t first = 0; first < rows.cols; first += kPackInputs) {
    const int64_t count = std::min(kPackInputs, rows.cols - first);
    const int64_t words = (count + 1) / 2;
    uint32_t* to = lane + first / 2 * kPanelOutputs;
    for (int64_t r = 0; r < rows.rows; ++r) {
      const float* row = rows.Row(r) + first;
      bf16 rounded[kPackInputs] = {};
      for (int64_t k = 0; k < count; ++k) rounded[k] = ToBf16(row[k]);
      for (int64_t w = 0; w < words; ++w) {
        to[w * kPanelOutputs + r] =
            rounded[2 * w].bits | static_cast<uint32_t>(rounded[2 * w + 1].bits) << 16;
      }
    }
  }
}

// Rows of one panel, from the output `lane` on.
void PackIntegers(WeightFormat format, MatrixView<const float> rows, int64_t lane,
                  std::byte* panel) {
  int8_t quantized[kMaxGroup];
  for (int64_t first = 0; first < rows.cols; first += format.group) {
    const GroupPanel step(format, panel + first / format.group * StepPanelBytes(format));
    const auto count = static_cast<size_t>(std::min<int64_t>(format.group, rows.cols - first));
    std::fill(quantized + count, quantized + format.group, int8_t{0});
    for (int64_t r = 0; r < rows.rows; ++r) {
      step.SetScale(lane + r, QuantizeGroup(format.type, {rows.Row(r) + first, count}, quantized));
      step.SetValues(lane + r, quantized, format.group);
    }
  }
}

// Rows [first, first + count) of `rows`, which belong to one panel, from the output `lane` on.
void PackInt4(WeightFormat format, const Int4Rows& rows, int64_t first, int64_t count, int64_t lane,
              std::byte* panel) {
  int8_t less_8[kMaxGroup];
  const int64_t num_inputs = rows.integers.cols;
  const int64_t groups = (num_inputs + format.group - 1) / format.group;
  for (int64_t r = 0; r < count; ++r) {
    const uint8_t* integers = rows.integers.Row(first + r);
    for (int64_t g = 0; g * format.group < num_inputs; ++g) {
      const GroupPanel step(format, panel + g * StepPanelBytes(format));
      const int64_t begin = g * format.group;
      const int64_t end = std::min(begin + format.group, num_inputs);
      const uint8_t zero = format.zeros ? rows.zeros[(first + r) * groups + g] : uint8_t{8};
      std::fill(less_8, less_8 + format.group, static_cast<int8_t>(zero - 8));
      for (int64_t k = begin; k < end; ++k) {
        less_8[k - begin] = static_cast<int8_t>(integers[k] - 8);
      }
      step.SetScale(lane + r, rows.scales.Row(first + r)[g]);
      if (format.zeros) step.SetZero(lane + r, zero);
      step.SetValues(lane + r, less_8, format.group);
    }
  }
}

// Calls pack(first row, count, lane, panel's number) for each panel that the rows from
// `first_output` on are in.
template <typename Pack>
void ForEachPanel(int64_t first_output, int64_t num_rows, Pack pack) {
  for (int64_t row = 0; row < num_rows;) {
    const int64_t lane = (first_output + row) % kPanelOutputs;
    const int64_t count = std::min(kPanelOutputs - lane, num_rows - row);
    pack(row, count, lane, (first_output + row) / kPanelOutputs);
    row += count;
  }
}

}  // namespace

std::string_view WeightTypeName(WeightType type) {
  switch (type) {
    case WeightType::kF32:
      return "f32";
    case WeightType::kBf16:
      return "bf16";
    case WeightType::kInt8:
      return "int8";
    case WeightType::kInt4:
      return "int4";
  }
  return "unknown";
}

// A class is called by how it stores weight matrices.
std::string_view NumericsClassName(NumericsClass numerics) {
  return WeightTypeName(WeightFormatOf(numerics).type);
}

std::optional<NumericsClass> ParseNumericsClass(std::string_view name) {
  for (NumericsClass numerics : kNumericsClasses) {
    if (NumericsClassName(numerics) == name) return numerics;
  }
  return std::nullopt;
}

WeightFormat WeightFormatOf(NumericsClass numerics) {
  switch (numerics) {
    case NumericsClass::kF32:
      return WeightFormat::kF32;
    case NumericsClass::kBf16:
      return WeightFormat::kBf16;
    case NumericsClass::kInt8:
      return WeightFormat::kInt8;
    case NumericsClass::kInt4:
      break;
  }
  return WeightFormat::kInt4;
}

WeightFormat TableFormatOf(NumericsClass numerics) {
  return numerics == NumericsClass::kF32 ? WeightFormat::kF32 : WeightFormat::kBf16;
}

WeightFormat HeadFormatOf(WeightFormat dense) {
  return dense.integers() ? WeightFormat{WeightType::kInt8, dense.group} : dense;
}

size_t PackedBytes(WeightFormat format, int64_t num_outputs, int64_t num_inputs) {
  return static_cast<size_t>(NumPanels(num_outputs)) * PanelBytes(format, num_inputs);
}

void PackRows(WeightFormat format, int64_t num_inputs, int64_t first_output,
              MatrixView<const float> rows, std::byte* packed) {
  const size_t panel_bytes = PanelBytes(format, num_inputs);
  ForEachPanel(
      first_output, rows.rows, [&](int64_t row, int64_t count, int64_t lane, int64_t panel) {
        const MatrixView<const float> of_panel{rows.Row(row), count, num_inputs, rows.stride};
        std::byte* to = packed + static_cast<size_t>(panel) * panel_bytes;
        switch (format.type) {
          case WeightType::kF32:
            PackF32(of_panel, reinterpret_cast<float*>(to) + lane);
            break;
          case WeightType::kBf16:
            PackBf16(of_panel, reinterpret_cast<uint32_t*>(to) + lane);
            break;
          case WeightType::kInt8:
          case WeightType::kInt4:
            PackIntegers(format, of_panel, lane, to);
            break;
        }
      });
}

void PackInt4Rows(WeightFormat format, int64_t num_inputs, int64_t first_output,
                  const Int4Rows& rows, std::byte* packed) {
  const size_t panel_bytes = PanelBytes(format, num_inputs);
  ForEachPanel(first_output, rows.integers.rows,
               [&](int64_t row, int64_t count, int64_t lane, int64_t panel) {
                 PackInt4(format, rows, row, count, lane,
                          packed + static_cast<size_t>(panel) * panel_bytes);
               });
}

}  // namespace conclave::kernels

// Views of row-major activations, and weight matrices in the kernels' order.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string_view>

#include "kernels/bf16.h"

namespace conclave::kernels {

// A numerics class fixes every order of summation and every rounding point (docs/numerics.md).
// Values are part of the wire format and of fingerprints.
enum class NumericsClass : uint8_t { kF32 = 1, kBf16 = 2, kInt8 = 3, kInt4 = 4 };

// "f32", "bf16", "int8", "int4": the name in flags, fingerprints and metrics.
std::string_view NumericsClassName(NumericsClass numerics);
inline constexpr NumericsClass kNumericsClasses[] = {  // the most precise first
    NumericsClass::kF32, NumericsClass::kBf16, NumericsClass::kInt8, NumericsClass::kInt4};
std::optional<NumericsClass> ParseNumericsClass(std::string_view name);

enum class WeightType : uint8_t { kF32 = 1, kBf16 = 2, kInt8 = 3, kInt4 = 4 };
std::string_view WeightTypeName(WeightType type);  // "f32", "bf16", "int8", "int4"

// How a weight matrix is stored. It also fixes how Matmul rounds its input rows: not at all for
// f32, to bf16 for bf16, to int8 in the same groups for integers.
struct WeightFormat {
  WeightType type = WeightType::kF32;
  int32_t group = 0;   // inputs that share a scale: 32, 64 or 128 for integers, else 0
  bool zeros = false;  // of int4: each group has a zero point, which takes no bytes of its own

  bool integers() const { return type == WeightType::kInt8 || type == WeightType::kInt4; }
  friend bool operator==(WeightFormat, WeightFormat) = default;

  static const WeightFormat kF32, kBf16;
  static const WeightFormat kInt8, kInt4;  // in groups of 64
};
inline constexpr WeightFormat WeightFormat::kF32{WeightType::kF32};
inline constexpr WeightFormat WeightFormat::kBf16{WeightType::kBf16};
inline constexpr WeightFormat WeightFormat::kInt8{WeightType::kInt8, 64};
inline constexpr WeightFormat WeightFormat::kInt4{WeightType::kInt4, 64};

// The format in which a class stores its weight matrices.
WeightFormat WeightFormatOf(NumericsClass numerics);

// The format, f32 or bf16, of the embedding table and the KV cache.
WeightFormat TableFormatOf(NumericsClass numerics);

// The format of the LM head, given that of the other matrices: int8 beside int4, whose error would
// show in every logit, else the same.
WeightFormat HeadFormatOf(WeightFormat dense);

// A borrowed row-major view; `stride` is in elements and at least `cols`.
template <typename T>
struct MatrixView {
  T* data = nullptr;
  int64_t rows = 0;
  int64_t cols = 0;
  int64_t stride = 0;

  T* Row(int64_t row) const { return data + row * stride; }
};

template <typename T>
MatrixView<T> DenseView(T* data, int64_t rows, int64_t cols) {
  return {data, rows, cols, cols};
}

// A weight matrix [num_outputs, num_inputs] in the kernels' order: panels of 16 outputs, the last
// one padded (kernels/panel.h). Borrows `data` (64-byte aligned), which outlives every use.
struct PackedMatrix {
  WeightFormat format = WeightFormat::kF32;
  int64_t num_outputs = 0;
  int64_t num_inputs = 0;
  const std::byte* data = nullptr;

  bool empty() const { return data == nullptr; }
};

inline constexpr int64_t kPanelOutputs = 16;  // f32 lanes of a 512-bit register

// Bytes of a packed matrix, a multiple of 64.
size_t PackedBytes(WeightFormat format, int64_t num_outputs, int64_t num_inputs);

// Packs rows [first_output, first_output + rows.rows) of a matrix of num_inputs columns into
// `packed` (PackedBytes long, zeroed by the caller before the first call). Values are rounded to
// nearest even, or quantised (kernels/quantize.h). Rows may come in any order and in parts, from
// several threads too.
void PackRows(WeightFormat format, int64_t num_inputs, int64_t first_output,
              MatrixView<const float> rows, std::byte* packed);

// Rows of int4 weights as somebody else has quantised them: weight = scale * (integer - zero).
// Input k is in group k / format.group; groups = num_inputs / format.group, rounded up.
struct Int4Rows {
  MatrixView<const uint8_t> integers;  // [num_rows, num_inputs], 0 to 15
  MatrixView<const float> scales;      // [num_rows, groups], finite
  const uint8_t* zeros = nullptr;      // [num_rows, groups], dense, 0 to 15; null: all are 8
};

// As PackRows, of integers that stay as they are. Preconditions: `format` is int4, with zeros
// exactly when `rows` has them; scales then have 0 in their lowest four bits, as what was widened
// from f16 or bf16 has; `rows.scales` has as many rows as `rows.integers`.
void PackInt4Rows(WeightFormat format, int64_t num_inputs, int64_t first_output,
                  const Int4Rows& rows, std::byte* packed);

}  // namespace conclave::kernels

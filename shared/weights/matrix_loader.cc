#include "shared/weights/matrix_loader.h"

#include <algorithm>
#include <bit>

#include "absl/strings/str_cat.h"

namespace conclave::weights {
namespace {

// True when all exponents are below the all-ones one; written to be vectorised.
bool AllFinite(std::span<const float> values) {
  uint32_t largest = 0;
  for (float value : values) {
    largest = std::max(largest, std::bit_cast<uint32_t>(value) & 0x7f800000u);
  }
  return largest != 0x7f800000u;
}

}  // namespace

int64_t MatrixLoader::ChunkRows(int64_t columns) {
  return std::max<int64_t>(1, kChunkBytes / (columns * static_cast<int64_t>(sizeof(float))));
}

std::span<const float> MatrixLoader::ReadRows(std::string_view name, int64_t first_row,
                                              int64_t num_rows, int64_t columns) {
  rows_.resize(static_cast<size_t>(num_rows * columns));
  checkpoint_.ReadRows(name, first_row, num_rows, rows_);
  if (status_.ok() && !AllFinite(rows_)) {
    status_ = absl::InvalidArgumentError(absl::StrCat(
        checkpoint_.FileOf(name), ": tensor ", std::string(name),
        " has an infinity or a NaN in "
        "rows ",
        first_row, " to ", first_row + num_rows - 1, "; the file is damaged: download it again"));
  }
  return rows_;
}

kernels::PackedMatrix MatrixLoader::Load(kernels::WeightFormat format, std::string_view name,
                                         int64_t first_row, int64_t num_outputs,
                                         int64_t num_inputs) {
  std::byte* packed = buffer_.Take(kernels::PackedBytes(format, num_outputs, num_inputs));
  const int64_t chunk = ChunkRows(num_inputs);
  for (int64_t row = 0; row < num_outputs && status_.ok(); row += chunk) {
    const int64_t count = std::min(chunk, num_outputs - row);
    const std::span<const float> rows = ReadRows(name, first_row + row, count, num_inputs);
    kernels::PackRows(format, num_outputs, num_inputs, row,
                      kernels::DenseView(rows.data(), count, num_inputs), packed);
  }
  return {format, num_outputs, num_inputs, packed};
}

kernels::PackedMatrix MatrixLoader::LoadTransposed(kernels::WeightFormat format,
                                                   std::string_view name, int64_t first_row,
                                                   int64_t num_outputs, int64_t num_inputs) {
  std::byte* packed = buffer_.Take(kernels::PackedBytes(format, num_outputs, num_inputs));
  // Whole, not in chunks: a head's factor is small (128 x 512 in the largest DeepSeek).
  const std::span<const float> rows = ReadRows(name, first_row, num_inputs, num_outputs);
  transposed_.resize(rows.size());
  for (int64_t input = 0; input < num_inputs; ++input) {
    for (int64_t output = 0; output < num_outputs; ++output) {
      transposed_[static_cast<size_t>(output * num_inputs + input)] =
          rows[static_cast<size_t>(input * num_outputs + output)];
    }
  }
  const float* values = transposed_.data();
  kernels::PackRows(format, num_outputs, num_inputs, 0,
                    kernels::DenseView(values, num_outputs, num_inputs), packed);
  return {format, num_outputs, num_inputs, packed};
}

std::vector<float> MatrixLoader::LoadVector(std::string_view name, int64_t elements) {
  const std::span<const float> values = ReadRows(name, 0, elements, 1);
  return {values.begin(), values.end()};
}

}  // namespace conclave::weights

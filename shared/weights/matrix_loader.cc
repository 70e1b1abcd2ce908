#include "shared/weights/matrix_loader.h"

#include <algorithm>
#include <bit>
#include <utility>

#include "absl/strings/str_cat.h"
#include "kernels/unpack.h"
#include "shared/weights/dtype.h"
#include "shared/weights/imported_format.h"

namespace conclave::weights {
namespace {

using kernels::PackedMatrix;
using kernels::WeightFormat;
using kernels::WeightType;

// f32 memory of a chunk of rows: it and what becomes of it stay in a core's own cache.
constexpr int64_t kChunkBytes = 256 << 10;

// One row in so many is compared with what it was made of. Unpacking a row is some
// ten times slower than packing it: 2 to 3 % of loading in bf16.
constexpr int64_t kSampledRows = 64;

constexpr uint32_t kInfinity = 0x7f800000;  // an f32's; NaNs are above

// The largest magnitude, as an f32's bits; written to be vectorised.
uint32_t LargestOf(std::span<const float> values) {
  uint32_t largest = 0;
  for (float value : values) {
    largest = std::max(largest, std::bit_cast<uint32_t>(value) & 0x7fffffffu);
  }
  return largest;
}

// The least magnitude, as an f32's bits, that may be infinite in a format.
uint32_t TooLarge(WeightFormat format) {
  switch (format.type) {
    case WeightType::kF32:
      return kInfinity;
    case WeightType::kBf16:
    case WeightType::kInt8:  // a scale's rounding adds less than bf16's
      return 0x7f7f8000;     // rounds to infinity in bf16
    case WeightType::kInt4:
      break;
  }
  return 0x7f000000;  // 2^127: an integer times its group's scale may be larger than any weight
}

// Whole panels, so that no two threads write to one cache line.
int64_t ChunkRows(int64_t num_columns) {
  const int64_t rows = kChunkBytes / (num_columns * static_cast<int64_t>(sizeof(float)));
  return std::max(kernels::kPanelOutputs, rows / kernels::kPanelOutputs * kernels::kPanelOutputs);
}

int64_t ElementBytes(WeightFormat format) { return format == WeightFormat::kF32 ? 4 : 2; }

void RoundTo(WeightFormat format, std::span<const float> values, std::byte* output) {
  if (format == WeightFormat::kF32) {
    std::copy(values.begin(), values.end(), reinterpret_cast<float*>(output));
  } else {
    std::transform(values.begin(), values.end(), reinterpret_cast<kernels::bf16*>(output),
                   kernels::ToBf16);
  }
}

}  // namespace

PackedMatrix MatrixLoader::Add(WeightFormat format, std::string_view name, int64_t first_row,
                               int64_t num_outputs, int64_t num_inputs) {
  const absl::StatusOr<WeightFormat> made = FormatToMake(tensors_, name, format);
  if (!made.ok()) {
    status_.Update(made.status());
    return {};
  }
  const bool imported = made->type == kernels::WeightType::kInt4 && tensors_.IntegersOf(name);
  std::byte* packed = buffer_.Take(kernels::PackedBytes(*made, num_outputs, num_inputs));
  Queue({imported ? Order::kImported : Order::kPacked, *made, std::string(name), first_row,
         num_outputs, num_inputs, packed});
  return {*made, num_outputs, num_inputs, packed};
}

PackedMatrix MatrixLoader::AddTransposed(WeightFormat format, std::string_view name,
                                         int64_t first_row, int64_t num_outputs,
                                         int64_t num_inputs) {
  std::byte* packed = buffer_.Take(kernels::PackedBytes(format, num_outputs, num_inputs));
  Queue(
      {Order::kTransposed, format, std::string(name), first_row, num_inputs, num_outputs, packed});
  return {format, num_outputs, num_inputs, packed};
}

std::span<const std::byte> MatrixLoader::AddRowMajor(WeightFormat format, std::string_view name,
                                                     int64_t first_row, int64_t num_rows,
                                                     int64_t num_columns) {
  const auto bytes = static_cast<size_t>(num_rows * num_columns * ElementBytes(format));
  std::byte* rows = buffer_.Take(bytes);
  Queue({Order::kRowMajor, format, std::string(name), first_row, num_rows, num_columns, rows});
  return {rows, bytes};
}

void MatrixLoader::Queue(Matrix matrix) {
  // A transposed matrix is one chunk: a head's factor is small (128 x 512 in the largest DeepSeek).
  const int64_t step =
      matrix.order == Order::kTransposed ? matrix.num_rows : ChunkRows(matrix.num_columns);
  for (int64_t begin = 0; begin < matrix.num_rows; begin += step) {
    chunks_.push_back({.matrix = matrices_.size(),
                       .begin = begin,
                       .end = std::min(begin + step, matrix.num_rows)});
  }
  matrices_.push_back(std::move(matrix));
}

absl::Status MatrixLoader::Run() {
  const std::vector<Matrix> matrices = std::exchange(matrices_, {});
  std::vector<Chunk> chunks = std::exchange(chunks_, {});
  for (size_t i = 0; i < matrices.size() && status_.ok(); ++i) {
    if (i == 0 || matrices[i].name != matrices[i - 1].name) {
      status_ = tensors_.Check(matrices[i].name);
    }
  }
  if (!status_.ok()) return status_;
  scratch_.resize(pool_ == nullptr ? 1 : static_cast<size_t>(pool_->num_threads()));
  const auto fill = [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      Chunk& chunk = chunks[static_cast<size_t>(i)];
      Fill(matrices[chunk.matrix], chunk, scratch_[static_cast<size_t>(thread)]);
    }
  };
  const int64_t count = static_cast<int64_t>(chunks.size());
  if (pool_ == nullptr) {
    fill(0, count, 0);
  } else {
    pool_->ParallelFor(count, 1, fill);
  }
  for (const Chunk& chunk : chunks) {
    const Matrix& matrix = matrices[chunk.matrix];
    if (chunk.largest < TooLarge(matrix.format)) continue;
    status_ = NotFinite(matrix.name, matrix.first_row + chunk.begin, matrix.first_row + chunk.end,
                        chunk.largest, matrix.format);
    return status_;
  }
  row_errors_.assign(matrices.size(), {});
  for (const Chunk& chunk : chunks) {
    const Matrix& matrix = matrices[chunk.matrix];
    const auto kind = TensorKindOf(matrix.name, matrix.order == Order::kRowMajor);
    if (!kind) continue;
    for (const SquaredError& error : chunk.errors) {
      errors_.Of(*kind).Add(error);
      row_errors_[chunk.matrix].push_back(error);
    }
  }
  for (const Matrix& matrix : matrices) tensors_.Forget(matrix.name);
  return absl::OkStatus();
}

void MatrixLoader::Fill(const Matrix& matrix, Chunk& chunk, Scratch& scratch) const {
  if (matrix.order == Order::kImported) {
    Import(matrix, chunk, scratch);
    return;
  }
  const int64_t num_rows = chunk.end - chunk.begin;
  const int64_t columns = matrix.num_columns;
  scratch.rows.resize(static_cast<size_t>(num_rows * columns));
  tensors_.ReadRows(matrix.name, matrix.first_row + chunk.begin, num_rows, scratch.rows);
  chunk.largest = LargestOf(scratch.rows);
  const float* rows = scratch.rows.data();
  switch (matrix.order) {
    case Order::kPacked:
      kernels::PackRows(matrix.format, columns, chunk.begin,
                        kernels::DenseView(rows, num_rows, columns), matrix.output);
      Sample(matrix, chunk.begin, kernels::DenseView(rows, num_rows, columns), scratch,
             chunk.errors);
      break;
    case Order::kTransposed: {
      scratch.transposed.resize(scratch.rows.size());
      for (int64_t row = 0; row < num_rows; ++row) {
        for (int64_t column = 0; column < columns; ++column) {
          scratch.transposed[static_cast<size_t>(column * num_rows + row)] =
              rows[row * columns + column];
        }
      }
      const float* transposed = scratch.transposed.data();
      kernels::PackRows(matrix.format, num_rows, 0,
                        kernels::DenseView(transposed, columns, num_rows), matrix.output);
      Sample(matrix, 0, kernels::DenseView(transposed, columns, num_rows), scratch, chunk.errors);
      break;
    }
    case Order::kImported:
      break;
    case Order::kRowMajor: {
      RoundTo(matrix.format, scratch.rows,
              matrix.output + chunk.begin * columns * ElementBytes(matrix.format));
      Sample(matrix, chunk.begin, kernels::DenseView(rows, num_rows, columns), scratch,
             chunk.errors);
      break;
    }
  }
}

template <typename Look>
void MatrixLoader::ForEachSample(const Matrix& matrix, int64_t first, int64_t num_rows, Look look) {
  // By their number in the tensor, so that parts of a matrix have the samples of the whole.
  const int64_t before = matrix.order == Order::kTransposed ? 0 : matrix.first_row;
  const int64_t begin = (before + first + kSampledRows - 1) / kSampledRows * kSampledRows - before;
  for (int64_t row = begin; row < first + num_rows; row += kSampledRows) look(row);
}

void MatrixLoader::Import(const Matrix& matrix, Chunk& chunk, Scratch& scratch) const {
  const int64_t num_rows = chunk.end - chunk.begin;
  const int64_t columns = matrix.num_columns;
  Int4Values& values = scratch.values;
  tensors_.ReadIntegers(matrix.name, matrix.first_row + chunk.begin, num_rows, values);
  const auto groups = static_cast<int64_t>(values.scales.size()) / num_rows;
  kernels::PackInt4Rows(
      matrix.format, columns, chunk.begin,
      {kernels::DenseView<const uint8_t>(values.integers.data(), num_rows, columns),
       kernels::DenseView<const float>(values.scales.data(), num_rows, groups),
       matrix.format.zeros ? values.zeros.data() : nullptr},
      matrix.output);
  ForEachSample(matrix, chunk.begin, num_rows, [&](int64_t row) {
    scratch.unpacked.resize(static_cast<size_t>(columns));
    kernels::UnpackRows({matrix.format, chunk.end, columns, matrix.output}, row,
                        kernels::DenseView(scratch.unpacked.data(), 1, columns));
    chunk.errors.emplace_back().Add(scratch.unpacked, scratch.unpacked);  // they are what they were
  });
}

void MatrixLoader::Sample(const Matrix& matrix, int64_t first,
                          kernels::MatrixView<const float> rows, Scratch& scratch,
                          std::vector<SquaredError>& errors) {
  scratch.unpacked.resize(static_cast<size_t>(rows.cols));
  ForEachSample(matrix, first, rows.rows, [&](int64_t row) {
    if (matrix.order == Order::kRowMajor) {
      const DType dtype = matrix.format == WeightFormat::kF32 ? DType::kF32 : DType::kBf16;
      WidenToFloat(dtype, matrix.output + row * rows.cols * ElementBytes(matrix.format),
                   scratch.unpacked);
    } else {
      kernels::UnpackRows({matrix.format, first + rows.rows, rows.cols, matrix.output}, row,
                          kernels::DenseView(scratch.unpacked.data(), 1, rows.cols));
    }
    errors.emplace_back().Add({rows.Row(row - first), scratch.unpacked.size()}, scratch.unpacked);
  });
}

std::vector<float> MatrixLoader::LoadVector(std::string_view name, int64_t elements) {
  std::vector<float> values(static_cast<size_t>(elements));
  tensors_.ReadRows(name, 0, elements, values);
  const uint32_t largest = LargestOf(values);
  if (status_.ok() && largest >= kInfinity) {
    status_ = NotFinite(name, 0, elements, largest, WeightFormat::kF32);
  }
  return values;
}

absl::Status MatrixLoader::NotFinite(std::string_view name, int64_t first_row, int64_t end_row,
                                     uint32_t largest, WeightFormat format) const {
  const std::string tensor = absl::StrCat(tensors_.FileOf(name), ": tensor ", std::string(name));
  const std::string rows = absl::StrCat(" in rows ", first_row, " to ", end_row - 1);
  if (largest >= kInfinity) {
    return absl::InvalidArgumentError(absl::StrCat(tensor, " has an infinity or a NaN", rows,
                                                   "; the file is damaged: download it again"));
  }
  return absl::InvalidArgumentError(
      absl::StrCat(tensor, " has a weight of magnitude ", std::bit_cast<float>(largest), rows,
                   ", wanted below ", std::bit_cast<float>(TooLarge(format)), ", where ",
                   std::string(kernels::WeightTypeName(format.type)),
                   " becomes infinite; use f32, or download the file again if it is damaged"));
}

}  // namespace conclave::weights

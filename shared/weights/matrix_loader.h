// Reads tensors and puts matrices into the kernels' order, in chunks of rows on all threads of a
// pool, so that loading takes little memory beyond its result.
//
// Matrices are queued first and filled by Run: their places follow from the order of the calls,
// their bits from the tensors alone.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "kernels/matrix.h"
#include "kernels/thread_pool.h"
#include "shared/weights/matrix_source.h"
#include "shared/weights/packed_buffer.h"
#include "shared/weights/tensor_reader.h"

namespace conclave::weights {

class MatrixLoader : public MatrixSource {
 public:
  // Matrices are cut from `buffer`. `pool` null: the calling thread alone. All outlive this.
  MatrixLoader(const TensorReader& tensors, PackedBuffer& buffer, kernels::ThreadPool* pool)
      : tensors_(tensors), buffer_(buffer), pool_(pool) {}

  kernels::PackedMatrix Add(kernels::WeightFormat format, std::string_view name, int64_t first_row,
                            int64_t num_outputs, int64_t num_inputs) override;
  kernels::PackedMatrix AddTransposed(kernels::WeightFormat format, std::string_view name,
                                      int64_t first_row, int64_t num_outputs,
                                      int64_t num_inputs) override;
  std::span<const std::byte> AddRowMajor(kernels::WeightFormat format, std::string_view name,
                                         int64_t first_row, int64_t num_rows,
                                         int64_t num_columns) override;
  // Also lets the system take back the pages read.
  absl::Status Run() override;
  KindErrors sampled_errors() const override { return errors_; }
  // The same of each matrix that the last Run made, in the order in which they were added: a row's
  // after the other, so that their sum does not depend on how rows were dealt out.
  const std::vector<std::vector<SquaredError>>& row_errors() const { return row_errors_; }
  std::vector<float> LoadVector(std::string_view name, int64_t elements) override;

 private:
  // kImported: packed, of integers that stay what they are.
  enum class Order : uint8_t { kPacked, kTransposed, kRowMajor, kImported };
  struct Matrix {
    Order order = Order::kPacked;
    kernels::WeightFormat format = kernels::WeightFormat::kF32;
    std::string name;
    int64_t first_row = 0;  // of the tensor
    int64_t num_rows = 0;   // of the tensor, from there on
    int64_t num_columns = 0;
    std::byte* output = nullptr;
  };
  // Rows [begin, end) of a matrix, counted from its first_row.
  struct Chunk {
    size_t matrix = 0;
    int64_t begin = 0;
    int64_t end = 0;
    uint32_t largest = 0;                   // magnitude of what was read, as an f32's bits
    std::vector<SquaredError> errors = {};  // of its sampled rows
  };
  // One thread's temporary f32 memory.
  struct Scratch {
    std::vector<float> rows;
    std::vector<float> transposed;
    std::vector<float> unpacked;  // one row
    Int4Values values;
  };

  void Queue(Matrix matrix);
  void Fill(const Matrix& matrix, Chunk& chunk, Scratch& scratch) const;
  void Import(const Matrix& matrix, Chunk& chunk, Scratch& scratch) const;
  // Calls look(row) for the rows of [first, first + num_rows) that are sampled.
  template <typename Look>
  static void ForEachSample(const Matrix& matrix, int64_t first, int64_t num_rows, Look look);
  // Adds the rows of the output, counted from `first`, that are sampled: `rows` became they.
  static void Sample(const Matrix& matrix, int64_t first, kernels::MatrixView<const float> rows,
                     Scratch& scratch, std::vector<SquaredError>& errors);
  // `largest`: the magnitude, as an f32's bits, that is not finite, or would not be in `format`.
  absl::Status NotFinite(std::string_view name, int64_t first_row, int64_t end_row,
                         uint32_t largest, kernels::WeightFormat format) const;

  const TensorReader& tensors_;
  PackedBuffer& buffer_;
  kernels::ThreadPool* const pool_;
  std::vector<Matrix> matrices_;
  std::vector<Chunk> chunks_;
  std::vector<Scratch> scratch_;  // [threads]
  KindErrors errors_;
  std::vector<std::vector<SquaredError>> row_errors_;
  absl::Status status_;
};

}  // namespace conclave::weights

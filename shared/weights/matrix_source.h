// Where loaders get the tensors of a model from, in the kernels' order: made from a checkpoint as
// they are asked for, or ready in a packed file. Names and orders are the same, so the bits are.
//
// A source serves one load, on one thread. Matrices are asked for first and are there after Run.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "kernels/matrix.h"
#include "kernels/thread_pool.h"
#include "shared/weights/packed_buffer.h"
#include "shared/weights/quantization_error.h"
#include "shared/weights/stored_model.h"

namespace conclave::weights {

class MatrixSource {
 public:
  virtual ~MatrixSource() = default;

  // Rows [first_row, first_row + num_outputs) of the tensor `name`, packed.
  virtual kernels::PackedMatrix Add(kernels::WeightFormat format, std::string_view name,
                                    int64_t first_row, int64_t num_outputs, int64_t num_inputs) = 0;

  // The transpose of rows [first_row, first_row + num_inputs) of `name`, a tensor of num_outputs
  // columns, packed.
  virtual kernels::PackedMatrix AddTransposed(kernels::WeightFormat format, std::string_view name,
                                              int64_t first_row, int64_t num_outputs,
                                              int64_t num_inputs) = 0;

  // Rows [first_row, first_row + num_rows) of `name`, a tensor of num_columns columns, as they lie,
  // rounded to the format, f32 or bf16.
  virtual std::span<const std::byte> AddRowMajor(kernels::WeightFormat format,
                                                 std::string_view name, int64_t first_row,
                                                 int64_t num_rows, int64_t num_columns) = 0;

  // Makes what was added since the last Run. INVALID_ARGUMENT naming a tensor that holds an
  // infinity or a NaN; DATA_LOSS naming one that is damaged; later calls then do nothing and return
  // it again.
  virtual absl::Status Run() = 0;

  // Of what Run made, by a row in 64 of each matrix; of what was made before, what is known of it.
  virtual KindErrors sampled_errors() const { return {}; }

  // Reads at once; what is wrong with it is reported by the next Run.
  virtual std::vector<float> LoadVector(std::string_view name, int64_t elements) = 0;
};

// The source of a stored model. Of a checkpoint matrices are cut from `buffer`; those of a packed
// file lie in it, and the buffer may be empty. `pool` null: the calling thread alone. All outlive
// the source.
std::unique_ptr<MatrixSource> MakeMatrixSource(const StoredModel& model, PackedBuffer& buffer,
                                               kernels::ThreadPool* pool);

// Bytes of `buffer` that so many bytes of matrices need; 0 for a packed file.
size_t BufferBytes(const StoredModel& model, size_t matrix_bytes);

}  // namespace conclave::weights

// Reads tensors of a checkpoint and puts matrices into the kernels' order, in chunks of rows, so
// that loading takes little memory beyond its result.
//
// Used by the engine's and the experts' loaders, each on its own loading thread.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "kernels/matrix.h"
#include "shared/weights/checkpoint.h"
#include "shared/weights/packed_buffer.h"

namespace conclave::weights {

// Temporary f32 memory of a chunk of rows.
inline constexpr int64_t kChunkBytes = 1 << 20;

class MatrixLoader {
 public:
  // Matrices are cut from `buffer`. Both outlive this.
  MatrixLoader(const Checkpoint& checkpoint, PackedBuffer& buffer)
      : checkpoint_(checkpoint), buffer_(buffer) {}

  // Packs rows [first_row, first_row + num_outputs) of the tensor `name`.
  kernels::PackedMatrix Load(kernels::WeightFormat format, std::string_view name, int64_t first_row,
                             int64_t num_outputs, int64_t num_inputs);

  // Packs the transpose of rows [first_row, first_row + num_inputs) of `name`, a tensor of
  // num_outputs columns.
  kernels::PackedMatrix LoadTransposed(kernels::WeightFormat format, std::string_view name,
                                       int64_t first_row, int64_t num_outputs, int64_t num_inputs);

  std::vector<float> LoadVector(std::string_view name, int64_t elements);

  // Reads rows into memory of the loader's own, valid until the next call.
  std::span<const float> ReadRows(std::string_view name, int64_t first_row, int64_t num_rows,
                                  int64_t columns);

  void Forget(std::string_view name) const { checkpoint_.Forget(name); }

  // Rows of `columns` elements that fit a chunk; at least 1.
  static int64_t ChunkRows(int64_t columns);

  // INVALID_ARGUMENT, naming the first tensor that held an infinity or a NaN.
  const absl::Status& status() const { return status_; }

 private:
  const Checkpoint& checkpoint_;
  PackedBuffer& buffer_;
  std::vector<float> rows_;
  std::vector<float> transposed_;
  absl::Status status_;
};

}  // namespace conclave::weights

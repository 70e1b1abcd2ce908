// One canonical tensor of an opened checkpoint: where its bytes lie, and how they become f32.
//
// Borrows the ShardSet's mappings. Immutable and thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "shared/weights/integer_view.h"
#include "shared/weights/model_config.h"
#include "shared/weights/shard_set.h"
#include "shared/weights/tensor_table.h"

namespace conclave::weights {

// The block scales of an FP8 matrix: element (r, c) of the matrix is scaled by
// scales[(first_row + r) / block][c / block].
struct BlockScales {
  const StoredTensor* stored = nullptr;
  int64_t block = 0;
  int64_t columns = 0;    // scales in a row
  int64_t first_row = 0;  // of the matrix within the element of a stack
  uint64_t begin = 0;     // byte of the element's first scale, from the start of the file
};

class TensorView {
 public:
  // Checks type, shape and scales of `stored` against `spec`; `slice` says which part of a stack it
  // is, or is null. INVALID_ARGUMENT names file, tensor, what was found and what was wanted.
  static absl::StatusOr<TensorView> Make(const TensorSpec& spec, const StoredTensor& stored,
                                         const StackSlice* slice, const ShardSet& shards,
                                         const ModelConfig& config);

  // A matrix that is stored as int4.
  static TensorView MakeIntegers(const TensorSpec& spec, const IntegerView& integers);

  int64_t rows() const { return rows_; }        // of a vector: its elements
  int64_t columns() const { return columns_; }  // of a vector: 1
  DType dtype() const { return stored_->info.dtype; }
  const StoredTensor& stored() const { return *stored_; }
  const BlockScales& scales() const { return scales_; }  // stored is null unless FP8

  // null unless it is stored as int4; then `stored` are its integers.
  const IntegerView* integers() const { return integers_ ? &*integers_ : nullptr; }

  // Bytes of the tensor's own elements, scales and zero points apart.
  std::span<const std::byte> bytes() const;
  // The scales that belong to these rows; empty unless FP8.
  std::span<const std::byte> scale_bytes() const;

  // As Checkpoint::ReadRows. CHECK-fails on a range outside the tensor or a wrong output size.
  void Read(int64_t first_row, int64_t num_rows, std::span<float> output) const;

 private:
  void ReadFloat8Row(int64_t row, std::span<float> output) const;

  const StoredTensor* stored_ = nullptr;
  uint64_t begin_ = 0;  // from the start of the file
  int64_t rows_ = 0;
  int64_t columns_ = 1;
  BlockScales scales_;
  std::optional<IntegerView> integers_;
};

// The name of the scales of an FP8 tensor.
std::string ScaleName(const std::string& stored_name);

}  // namespace conclave::weights

// One matrix of a checkpoint that is stored as int4 with a scale, and maybe a zero point, for each
// group of its inputs: where the parts lie, and how they become integers.
//
// Borrows the ShardSet's mappings. Immutable and thread-safe.
//
//   GPTQ     NAME.qweight [K/8, N]: eight inputs in a word, the first in the lowest four bits
//            NAME.qzeros  [groups, N/8]: eight outputs in a word; less 1, but not in gptq_v2
//            NAME.scales  [groups, N]
//            NAME.g_idx   [K], the group of each input: k / group; may be missing
//   AWQ      NAME.qweight [K, N/8]: outputs 0, 2, 4, 6, 1, 3, 5, 7 of eight in a word, ascending
//            NAME.qzeros  [groups, N/8], likewise; NAME.scales [groups, N]
//   compressed-tensors
//            NAME.weight_packed     [N, K/8]: eight inputs in a word, each plus 8
//            NAME.weight_zero_point [N/8, groups]: eight outputs in a word, each plus 8
//            NAME.weight_scale      [N, groups]; NAME.weight_shape [2]: N, K
//            NAME.weight_g_idx      as g_idx; may be missing
//
// N are the outputs, K the inputs; words are I32, scales F16 or BF16; / rounds up.
#pragma once

#include <cstdint>
#include <set>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/matrix.h"
#include "shared/weights/model_config.h"
#include "shared/weights/shard_set.h"
#include "shared/weights/tensor_reader.h"

namespace conclave::weights {

class IntegerView {
 public:
  // The tensor that holds the integers of a matrix `name`, which ends in ".weight", under a layout
  // other than kNone.
  static std::string IntegersName(IntegerLayout layout, const std::string& name);

  // Checks types and shapes of the parts of `name`, a matrix [rows, columns] whose integers the
  // shards have, and adds their names to `used`. INVALID_ARGUMENT names file, tensor, what was
  // found and what was wanted.
  static absl::StatusOr<IntegerView> Make(const std::string& name, int64_t rows, int64_t columns,
                                          const ShardSet& shards, const IntegerStorage& storage,
                                          std::set<std::string>* used);

  // Int4 in the groups that the kernels take, of which one in the checkpoint may have several.
  kernels::WeightFormat format() const;
  const IntegerStorage& storage() const { return storage_; }

  // What no shape tells: that inputs are in their order, that all weights are finite, that zero
  // points are clear, and of a matrix without them that they are 8. Reads some percent of the
  // matrix.
  absl::Status Check() const;

  // Rows [first_row, first_row + num_rows), which CHECK-fails beyond the matrix's, in the groups of
  // format(); output's vectors get the size that they need. Whatever the parts hold, nothing beyond
  // them is read; that it means what it should, Check says.
  void ReadIntegers(int64_t first_row, int64_t num_rows, Int4Values& output) const;
  // The same rows as scale * (integer - zero point): `output` is [num_rows, columns], row-major.
  void ReadFloats(int64_t first_row, int64_t num_rows, std::span<float> output) const;

  // The integers, the scales and the zero points if it has them, in this order.
  std::vector<const StoredTensor*> parts() const;

 private:
  IntegerView() = default;

  absl::Status FindParts(const std::string& base, const ShardSet& shards,
                         std::set<std::string>* used);
  bool awq() const { return storage_.layout == IntegerLayout::kAwq; }
  bool compressed() const { return storage_.layout == IntegerLayout::kCompressedTensors; }
  int64_t stored_group() const { return storage_.group == 0 ? columns_ : storage_.group; }
  int64_t stored_groups() const { return (columns_ + stored_group() - 1) / stored_group(); }
  // Four bits of the zero points, as they are stored.
  int32_t StoredZero(int64_t row, int64_t stored_group) const;
  float Scale(int64_t row, int64_t stored_group) const;
  void ReadRowsOfWords(int64_t first_row, int64_t num_rows, uint8_t* output) const;
  void ReadAwqRows(int64_t first_row, int64_t num_rows, uint8_t* output) const;
  absl::Status CheckOrder() const;
  absl::Status CheckScales() const;
  absl::Status CheckZeros() const;
  absl::Status CheckShape() const;

  IntegerStorage storage_;
  int64_t rows_ = 0, columns_ = 0;
  const StoredTensor* integers_ = nullptr;
  const StoredTensor* scales_ = nullptr;
  const StoredTensor* zeros_ = nullptr;  // compressed-tensors: null without zero points
  const StoredTensor* order_ = nullptr;  // may be null
  const StoredTensor* shape_ = nullptr;  // compressed-tensors alone
};

}  // namespace conclave::weights

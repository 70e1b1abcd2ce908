// The matrices of a packed file, where they lie. Its checksums are looked at in Run, on all threads
// of the pool: what is damaged is never computed with.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "shared/weights/matrix_source.h"
#include "shared/weights/packed_file.h"

namespace conclave::weights {

class PackedSource : public MatrixSource {
 public:
  // Both outlive this, and `file` what it hands out.
  PackedSource(const PackedFile& file, kernels::ThreadPool* pool) : file_(file), pool_(pool) {}

  kernels::PackedMatrix Add(kernels::WeightFormat format, std::string_view name, int64_t first_row,
                            int64_t num_outputs, int64_t num_inputs) override;
  kernels::PackedMatrix AddTransposed(kernels::WeightFormat format, std::string_view name,
                                      int64_t first_row, int64_t num_outputs,
                                      int64_t num_inputs) override;
  std::span<const std::byte> AddRowMajor(kernels::WeightFormat format, std::string_view name,
                                         int64_t first_row, int64_t num_rows,
                                         int64_t num_columns) override;
  absl::Status Run() override;
  // As the file tells them: what packing made.
  KindErrors sampled_errors() const override { return errors_; }
  std::vector<float> LoadVector(std::string_view name, int64_t elements) override;

 private:
  // An entry that must be just so, but for zero points, which int4 may have; null, and status_ set,
  // when it is not.
  const PackedEntry* Find(const PackedEntry& wanted);
  std::span<const std::byte> Take(const PackedEntry& wanted);  // its bytes
  kernels::PackedMatrix Matrix(kernels::WeightFormat format, std::string name, int64_t num_outputs,
                               int64_t num_inputs);

  const PackedFile& file_;
  kernels::ThreadPool* const pool_;
  std::vector<const PackedEntry*> unverified_;
  KindErrors errors_;
  absl::Status status_;
};

}  // namespace conclave::weights

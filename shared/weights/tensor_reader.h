// Tensors by their canonical names as rows of f32: what matrices are packed from.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "kernels/matrix.h"
#include "shared/base/check.h"

namespace conclave::weights {

// Rows of int4 weights, row-major: weight = scale * (integer - zero). Column k is in group
// k / format.group, the last of which may be shorter: groups = columns / format.group, rounded up.
struct Int4Values {
  std::vector<uint8_t> integers;  // [num_rows, columns], 0 to 15
  std::vector<float> scales;      // [num_rows, groups], widened from f16 or bf16
  std::vector<uint8_t> zeros;     // [num_rows, groups], 0 to 15; empty without: all are 8
};

class TensorReader {
 public:
  virtual ~TensorReader() = default;

  // How a matrix is stored that is int4 already, with or without zero points; nullopt for others.
  virtual std::optional<kernels::WeightFormat> IntegersOf(std::string_view) const {
    return std::nullopt;
  }
  // Rows [first_row, first_row + num_rows) of such a matrix, in the groups of that format; sizes
  // the vectors of `output`. What they mean is certain after Check. CHECK-fails as ReadRows.
  virtual void ReadIntegers(std::string_view name, int64_t first_row, int64_t num_rows,
                            Int4Values& output) const {
    (void)name, (void)first_row, (void)num_rows, (void)output;
    CONCLAVE_CHECK(false);  // IntegersOf says that there are none
  }
  // What reading takes for granted of a tensor, and opening did not look at. INVALID_ARGUMENT or
  // UNIMPLEMENTED naming file, tensor, what was found and what was wanted.
  virtual absl::Status Check(std::string_view) const { return absl::OkStatus(); }

  // Rows [first_row, first_row + num_rows) of a matrix (or elements of a vector) into `output`,
  // [num_rows, columns], row-major. What they mean is certain after Check.
  // CHECK-fails on a name or range that the model does not have.
  virtual void ReadRows(std::string_view name, int64_t first_row, int64_t num_rows,
                        std::span<float> output) const = 0;
  // The file that holds a tensor, for messages.
  virtual std::string FileOf(std::string_view name) const = 0;
  // Lets the system take back the pages of a tensor that is not read again soon.
  virtual void Forget(std::string_view name) const = 0;
};

}  // namespace conclave::weights

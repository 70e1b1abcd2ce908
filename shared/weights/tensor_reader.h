// Tensors by their canonical names as rows of f32: what matrices are packed from.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace conclave::weights {

class TensorReader {
 public:
  virtual ~TensorReader() = default;

  // Rows [first_row, first_row + num_rows) of a matrix (or elements of a vector) into `output`.
  // CHECK-fails on a name or range that the model does not have.
  virtual void ReadRows(std::string_view name, int64_t first_row, int64_t num_rows,
                        std::span<float> output) const = 0;
  // The file that holds a tensor, for messages.
  virtual std::string FileOf(std::string_view name) const = 0;
  // Lets the system take back the pages of a tensor that is not read again soon.
  virtual void Forget(std::string_view name) const = 0;
};

}  // namespace conclave::weights

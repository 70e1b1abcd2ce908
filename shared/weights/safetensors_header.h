// The header of a safetensors file: which tensors it holds, of what type and shape, and where.
//
//   offset       bytes  what
//   0            8      header_bytes, unsigned, little-endian
//   8            h      JSON object: name -> {"dtype", "shape", "data_offsets": [begin, end]}, and
//                       optionally "__metadata__": {string: string}; may end in spaces
//   8 + h        ...    data; offsets count from here
//
// Strict, as the format demands: no duplicate or unknown keys, and the tensors cover the data
// without gaps or overlaps. Alignment is not demanded (older writers do not align), so data is read
// with memcpy. Pure: called with bytes that may come from anywhere.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "shared/weights/dtype.h"

namespace conclave::weights {

// The format's own limit on the JSON part.
inline constexpr uint64_t kMaxHeaderBytes = 100'000'000;

struct TensorInfo {
  std::string name;
  DType dtype = DType::kF32;
  std::vector<int64_t> shape;
  uint64_t begin = 0;  // from the start of the file
  uint64_t end = 0;

  uint64_t bytes() const { return end - begin; }
};

// "[16, 96]".
std::string ShapeText(const std::vector<int64_t>& shape);

// Reads header_bytes from the first 8 bytes of a file. INVALID_ARGUMENT when the file is shorter
// than 8 bytes or than the header, or the header is over kMaxHeaderBytes. `file` is named in
// messages.
absl::StatusOr<uint64_t> ParseHeaderLength(std::string_view first_bytes, uint64_t file_bytes,
                                           std::string_view file);

// Parses the JSON part of a file of `file_bytes` in all. The tensors come in the order of their
// data. INVALID_ARGUMENT names file, tensor, what was found and what was wanted.
absl::StatusOr<std::vector<TensorInfo>> ParseHeader(std::string_view json, uint64_t file_bytes,
                                                    std::string_view file);

}  // namespace conclave::weights

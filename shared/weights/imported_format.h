// Which matrices stay the int4 that a checkpoint stores, and which requests for others are refused.
//
// Pure. Asked by what makes matrices, and by the packer before it makes any.
#pragma once

#include <string_view>

#include "absl/status/statusor.h"
#include "kernels/matrix.h"
#include "shared/weights/tensor_reader.h"

namespace conclave::weights {

// The format that a matrix gets for which `asked` is asked: the same, and with zero points where
// the matrix is stored as int4 with them in these groups and so stays what it is. INVALID_ARGUMENT
// naming the tensor where it is stored as int4 and other integers are asked for, as they always are
// of an LM head (or the embedding that it is tied to) beside integers.
absl::StatusOr<kernels::WeightFormat> FormatToMake(const TensorReader& tensors,
                                                   std::string_view name,
                                                   kernels::WeightFormat asked);

}  // namespace conclave::weights

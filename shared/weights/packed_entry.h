// Tensors of a packed file as engines and workers ask for them: their names, sizes and formats.
//
// Pure.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "kernels/matrix.h"
#include "shared/weights/packed_index.h"

namespace conclave::weights {

// What a packed file calls a part of a tensor (docs/packed-format.md): its name alone for a part
// that begins at the first row; transposed ones always have their rows in it.
std::string PackedName(std::string_view name, int64_t first_row, int64_t num_rows);
std::string PackedTransposedName(std::string_view name, int64_t first_row, int64_t num_rows);
std::string PackedRowMajorName(std::string_view name);

// How an entry's weights are stored.
kernels::WeightFormat FormatOf(const PackedEntry& entry);

// Entries without place and checksum.
PackedEntry PanelsEntry(kernels::WeightFormat format, std::string name, int64_t num_outputs,
                        int64_t num_inputs);
PackedEntry RowMajorEntry(kernels::WeightFormat format, std::string name, int64_t num_rows,
                          int64_t num_columns);
PackedEntry VectorEntry(std::string name, int64_t elements);

}  // namespace conclave::weights

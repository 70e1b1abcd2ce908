// Numbers of bytes as people write and read them.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace conclave {

// Reads 512MiB, 2 GiB, 1.5GB, 4096, 1e9, or auto (0). Suffixes: B, KB, MB, GB, TB (powers of 1000)
// and KiB, MiB, GiB, TiB (of 1024). INVALID_ARGUMENT for anything else, negatives and overflow.
absl::StatusOr<int64_t> ParseByteSize(std::string_view text);

// "24 MiB", "57.3 GiB": at most four characters before the unit; "0 B" for none.
std::string FormatBytes(int64_t bytes);

}  // namespace conclave

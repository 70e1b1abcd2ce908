// How finely row-wise kernels are cut for threads. Internal to kernels/.
#pragma once

#include <cstdint>

namespace conclave::kernels {

// Rows that are worth another thread: about 32 Ki elements, some 5 microseconds.
inline int64_t RowGrain(int64_t elements_per_row) { return 32768 / (elements_per_row + 1) + 1; }

}  // namespace conclave::kernels

// How often this program has asked for memory with operator new, on any thread. Whoever links this
// library has its operators counted.
#pragma once

#include <cstdint>

namespace conclave::testing_support {

int64_t AllocationCount();

}  // namespace conclave::testing_support

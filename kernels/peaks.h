// What a core can do at most, to be measured: the yardsticks of the kernels.
//
// Each function keeps the calling thread busy and says what it did; whoever calls it takes the
// time.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/context.h"
#include "kernels/matrix.h"

namespace conclave::kernels {

// Reads `bytes` (a multiple of 512) from an address that is a multiple of 64, as eight streams side
// by side, which is faster than one, and returns a sum of them.
uint64_t ReadMemory(CpuLevel level, const std::byte* data, size_t bytes);

// Does `rounds` rounds of independent multiply-adds in registers, by the instructions that chains
// of a type take at the level, and returns the operations: a multiply-add is two. At kReference 0.
int64_t MultiplyAdds(CpuLevel level, WeightType type, int64_t rounds);

}  // namespace conclave::kernels

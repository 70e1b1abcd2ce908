// One VDPBF16PS on 16 lanes, for the self-check.
#pragma once

#include <cstdint>

namespace conclave::kernels::cpu {

// sums[j] = VDPBF16PS(sums[j], a[j], b[j]); each of a and b is a pair of bf16, the even element in
// the lower half. [16] each.
void DotProduct16(const uint32_t* a, const uint32_t* b, float* sums);

}  // namespace conclave::kernels::cpu

// The instructions of kernels/peaks.h, each in the file of its instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace conclave::kernels::cpu {

uint64_t ReadAvx512(const std::byte* data, size_t bytes);
int64_t FmaAvx512(int64_t rounds);
int64_t DotBf16Avx512(int64_t rounds);  // VDPBF16PS
int64_t DotInt8Avx512(int64_t rounds);  // VPDPBUSD

}  // namespace conclave::kernels::cpu

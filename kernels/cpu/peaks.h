// The loops of kernels/peaks.h, each in the file of its instruction set.
#pragma once

#include <cstddef>
#include <cstdint>

namespace conclave::kernels::cpu {

uint64_t ReadAvx2(const std::byte* data, size_t bytes);
uint64_t ReadAvx512(const std::byte* data, size_t bytes);

int64_t FmaAvx2(int64_t rounds);
int64_t FmaAvx512(int64_t rounds);
int64_t DotBf16Avx512(int64_t rounds);  // VDPBF16PS

int64_t DotInt8Avx2(int64_t rounds);        // VPSIGNB, VPMADDUBSW, VPMADDWD, VPADDD
int64_t DotInt4Avx2(int64_t rounds);        // VPMADDUBSW, VPADDW
int64_t DotInt8Avx2Vnni(int64_t rounds);    // VPDPBUSD
int64_t DotInt8Avx512(int64_t rounds);      // VPMADDWD, VPADDD
int64_t DotInt8Avx512Vnni(int64_t rounds);  // VPDPBUSD

}  // namespace conclave::kernels::cpu

// Counter-based random numbers: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as
// 1, 2, 3", SC 2011). A draw is a function of its key and counter, so sampling needs no state and
// repeats on any engine.
#pragma once

#include <array>
#include <cstdint>

namespace conclave::kernels {

std::array<uint32_t, 4> Philox4x32(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// 64 uniform bits for the token `generated_index` of choice `choice_index` of a request
// (docs/numerics.md, "Sampling").
uint64_t DrawBits(uint64_t seed, uint32_t choice_index, uint32_t generated_index);

}  // namespace conclave::kernels

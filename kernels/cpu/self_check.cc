#include "kernels/cpu/self_check.h"

#include <bit>
#include <cmath>
#include <cstdint>

#include "kernels/cpu/dot_product_avx512bf16.h"
#include "kernels/random.h"
#include "kernels/ref/functions.h"

namespace conclave::kernels::cpu {
namespace {

constexpr int kLanes = 16;

float LowHalf(uint32_t pair) { return std::bit_cast<float>(pair << 16); }
float HighHalf(uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); }

bool Agrees(const uint32_t* a, const uint32_t* b, const float* start) {
  float sums[kLanes];
  for (int j = 0; j < kLanes; ++j) sums[j] = start[j];
  DotProduct16(a, b, sums);
  for (int j = 0; j < kLanes; ++j) {
    float expected = ref::FlushedFma(HighHalf(a[j]), HighHalf(b[j]), start[j]);
    expected = ref::FlushedFma(LowHalf(a[j]), LowHalf(b[j]), expected);
    const bool both_nan = expected != expected && sums[j] != sums[j];
    if (!both_nan && std::bit_cast<uint32_t>(expected) != std::bit_cast<uint32_t>(sums[j])) {
      return false;
    }
  }
  return true;
}

// A bf16 pair whose exponents lie within 2^spread of 2^centre (spread in binary digits of the
// exponent).
uint32_t Pair(uint32_t random, uint32_t exponent_mask, uint32_t exponent_base) {
  const uint32_t mask = 0x807f807fu | exponent_mask << 7 | exponent_mask << 23;
  return (random & mask) + (exponent_base << 7 | exponent_base << 23);
}

}  // namespace

bool DotProductIsAsSpecified() {
  // Exponent fields: ordinary numbers near 1; products near 2^-126 that partly cancel a sum of that
  // size; subnormal operands.
  struct Range {
    uint32_t operand_mask, operand_base, sum_mask, sum_base;
  };
  constexpr Range kRanges[] = {{7, 123, 7, 123}, {7, 60, 3, 0}, {1, 0, 7, 120}, {15, 112, 7, 0}};
  for (uint32_t round = 0; round < 256; ++round) {
    const Range& range = kRanges[round % 4];
    uint32_t a[kLanes], b[kLanes];
    float start[kLanes];
    for (uint32_t j = 0; j < kLanes; ++j) {
      const auto words = Philox4x32({round, j, 0, 0}, {0x636f6e63u, 0x6c617665u});
      a[j] = Pair(words[0], range.operand_mask, range.operand_base);
      b[j] = Pair(words[1], range.operand_mask, range.operand_base);
      start[j] = std::bit_cast<float>((words[2] & (0x807fffffu | range.sum_mask << 23)) +
                                      (range.sum_base << 23));
    }
    if (!Agrees(a, b, start)) return false;
  }
  // 2^-126 - 2^-d for d around 150, where flushing starts, in either element of the pair.
  for (int d = 148; d <= 153; ++d) {
    uint32_t a[kLanes], b[kLanes];
    float start[kLanes];
    const uint32_t x = std::bit_cast<uint32_t>(std::ldexp(1.0f, -75));
    const uint32_t y = std::bit_cast<uint32_t>(std::ldexp(-1.0f, 75 - d));
    for (int j = 0; j < kLanes; ++j) {
      a[j] = j % 2 == 0 ? x >> 16 : x;
      b[j] = j % 2 == 0 ? y >> 16 : y;
      start[j] = std::ldexp(1.0f, -126);
    }
    if (!Agrees(a, b, start)) return false;
  }
  return true;
}

}  // namespace conclave::kernels::cpu

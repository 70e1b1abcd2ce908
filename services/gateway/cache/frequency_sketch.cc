#include "services/gateway/cache/frequency_sketch.h"

#include <algorithm>
#include <bit>

namespace conclave::gateway {

namespace {

// Counts between two halvings, for each key it is made for.
constexpr uint64_t kSamplesPerKey = 10;
constexpr uint64_t kHighBitsOff = 0x7777777777777777;

// Odd numbers with random bits (from the digits of pi): one multiplication a row.
constexpr uint64_t kRowFactors[] = {0x243f6a8885a308d3, 0x13198a2e03707345, 0xa4093822299f31d1,
                                    0x082efa98ec4e6c89};

uint64_t Mix(uint64_t hash, int row) {
  const uint64_t product = (hash ^ (hash >> 32)) * kRowFactors[row];
  return product ^ (product >> 29);
}

}  // namespace

FrequencySketch::FrequencySketch(size_t num_keys)
    : words_(std::bit_ceil(std::max<size_t>(num_keys, 16)), 0),
      sample_size_(kSamplesPerKey * words_.size()) {}

void FrequencySketch::Count(uint64_t hash) {
  bool grew = false;
  for (int row = 0; row < kRows; ++row) {
    uint64_t& word = words_[WordOf(hash, row)];
    const int shift = ShiftOf(hash, row);
    if (((word >> shift) & kMost) == kMost) continue;
    word += uint64_t{1} << shift;
    grew = true;
  }
  if (grew && ++counted_ >= sample_size_) Halve();
}

int32_t FrequencySketch::Frequency(uint64_t hash) const {
  int32_t least = kMost;
  for (int row = 0; row < kRows; ++row) {
    const auto count =
        static_cast<int32_t>((words_[WordOf(hash, row)] >> ShiftOf(hash, row)) & kMost);
    least = std::min(least, count);
  }
  return least;
}

size_t FrequencySketch::WordOf(uint64_t hash, int row) const {
  return Mix(hash, row) & (words_.size() - 1);
}

int FrequencySketch::ShiftOf(uint64_t hash, int row) {
  return static_cast<int>(Mix(hash, row) >> 60) * 4;
}

void FrequencySketch::Halve() {
  for (uint64_t& word : words_) word = (word >> 1) & kHighBitsOff;
  counted_ /= 2;
}

}  // namespace conclave::gateway

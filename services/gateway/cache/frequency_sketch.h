// How often each key was asked for lately, in a few bits a key: a count-min sketch of 4-bit
// counters that are halved when enough has been counted (Einziger, Friedman and Manes, "TinyLFU: A
// Highly Efficient Cache Admission Policy", ACM TOS 2017, sections 3.2 and 3.4).
//
// Never too low but by the halving, seldom too high. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace conclave::gateway {

class FrequencySketch {
 public:
  // For about `num_keys` keys at a time: 8 bytes for each.
  explicit FrequencySketch(size_t num_keys);

  // `hash`: 64 well mixed bits of the key.
  void Count(uint64_t hash);
  // 0 to 15.
  int32_t Frequency(uint64_t hash) const;

 private:
  static constexpr int kRows = 4;
  static constexpr int kMost = 15;

  // Which word, and which of its 16 counters, holds row `row` of the key.
  size_t WordOf(uint64_t hash, int row) const;
  static int ShiftOf(uint64_t hash, int row);
  void Halve();

  std::vector<uint64_t> words_;  // a power of two of them
  uint64_t counted_ = 0;
  uint64_t sample_size_;
};

}  // namespace conclave::gateway

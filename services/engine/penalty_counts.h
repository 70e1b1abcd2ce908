// How often each id occurs in a sequence so far, as the sampler's penalties want it.
//
// Part of a sequence; step thread alone. Empty while no penalty is in force.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/sample.h"

namespace conclave::engine {

class PenaltyCounts {
 public:
  // Counts what is there at the start. Later ids come by Add.
  void Start(std::span<const int32_t> prompt_ids, std::span<const int32_t> generated_ids);
  void Add(int32_t generated_id);

  // Sorted by id, one entry an id.
  std::span<const kernels::TokenCount> counts() const { return counts_; }

 private:
  std::vector<kernels::TokenCount> counts_;
};

}  // namespace conclave::engine

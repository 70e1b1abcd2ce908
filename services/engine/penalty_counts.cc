#include "services/engine/penalty_counts.h"

#include <algorithm>

namespace conclave::engine {

void PenaltyCounts::Start(std::span<const int32_t> prompt_ids,
                          std::span<const int32_t> generated_ids) {
  std::vector<kernels::TokenCount> all;
  all.reserve(prompt_ids.size() + generated_ids.size());
  for (int32_t id : prompt_ids) all.push_back({id, 1, 0});
  for (int32_t id : generated_ids) all.push_back({id, 0, 1});
  std::sort(all.begin(), all.end(), [](const auto& a, const auto& b) { return a.id < b.id; });
  counts_.clear();
  for (const kernels::TokenCount& one : all) {
    if (counts_.empty() || counts_.back().id != one.id) {
      counts_.push_back(one);
    } else {
      counts_.back().in_prompt += one.in_prompt;
      counts_.back().in_output += one.in_output;
    }
  }
}

void PenaltyCounts::Add(int32_t generated_id) {
  const auto at =
      std::lower_bound(counts_.begin(), counts_.end(), generated_id,
                       [](const kernels::TokenCount& count, int32_t id) { return count.id < id; });
  if (at != counts_.end() && at->id == generated_id) {
    ++at->in_output;
  } else {
    counts_.insert(at, {generated_id, 0, 1});
  }
}

}  // namespace conclave::engine

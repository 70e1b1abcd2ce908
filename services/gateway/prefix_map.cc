#include "services/gateway/prefix_map.h"

#include <algorithm>

#include "absl/hash/hash.h"
#include "absl/strings/string_view.h"
#include "absl/types/span.h"

namespace conclave::gateway {

std::vector<uint64_t> PrefixHashes(std::string_view scope, std::span<const int32_t> ids) {
  std::vector<uint64_t> hashes;
  hashes.reserve(ids.size() / kPrefixStep);
  uint64_t hash = absl::HashOf(absl::string_view(scope.data(), scope.size()));
  for (; ids.size() >= kPrefixStep; ids = ids.subspan(kPrefixStep)) {
    hash = absl::HashOf(hash, absl::MakeConstSpan(ids.data(), kPrefixStep));
    hashes.push_back(hash);
  }
  return hashes;
}

int64_t PrefixMap::LongestPrefix(std::span<const uint64_t> hashes) const {
  // A beginning is always younger than what follows it: nothing is known beyond a gap.
  const auto end = std::partition_point(hashes.begin(), hashes.end(),
                                        [this](uint64_t hash) { return places_.contains(hash); });
  return (end - hashes.begin()) * kPrefixStep;
}

void PrefixMap::Remember(std::span<const uint64_t> hashes, int64_t capacity_tokens) {
  // The beginning is the youngest: without it what follows is of no use.
  for (size_t i = hashes.size(); i-- > 0;) {
    const auto [at, is_new] = places_.try_emplace(hashes[i]);
    if (!is_new) by_use_.erase(at->second);
    at->second = by_use_.insert(by_use_.end(), hashes[i]);
  }
  while (std::ssize(by_use_) * kPrefixStep > capacity_tokens) {
    places_.erase(by_use_.front());
    by_use_.pop_front();
  }
}

}  // namespace conclave::gateway

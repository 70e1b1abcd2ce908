// What an engine's KV cache is believed to hold, by what was sent there: beginnings of prompts, in
// steps of as many tokens as a KV block has.
//
// Pure; owned by the core thread. A guess: an engine that has evicted a prefix computes it anew.
#pragma once

#include <cstdint>
#include <list>
#include <span>
#include <string_view>
#include <unordered_map>
#include <vector>

namespace conclave::gateway {

inline constexpr int64_t kPrefixStep = 32;  // kernels::kBlockTokens

// Element i is a hash, of this process, of the scope and the first (i + 1) * kPrefixStep ids.
std::vector<uint64_t> PrefixHashes(std::string_view scope, std::span<const int32_t> ids);

class PrefixMap {
 public:
  // Tokens of the longest beginning that it knows.
  int64_t LongestPrefix(std::span<const uint64_t> hashes) const;
  // Forgets what was used longest ago beyond `capacity_tokens`.
  void Remember(std::span<const uint64_t> hashes, int64_t capacity_tokens);

 private:
  std::list<uint64_t> by_use_;  // the longest unused first
  std::unordered_map<uint64_t, std::list<uint64_t>::iterator> places_;
};

}  // namespace conclave::gateway

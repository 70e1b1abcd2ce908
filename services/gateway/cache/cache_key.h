// What decides an answer, as one hash.
#pragma once

#include <array>
#include <cstdint>
#include <string>

#include "services/gateway/generation.h"

namespace conclave::gateway {

// Where an answer is valid.
struct CacheScope {
  std::string text_version;  // of tokenizer and templates
  int64_t context_tokens = 0;
  std::string tenant;  // empty where tenants share answers
};

// SHA-256 over everything that decides the output of `request`: the prompt as it was given (ids,
// text or messages, and how they become ids), every sampling field, seed, stops and limits. Not the
// pace, the class or the deadline: they change when tokens come, and not which. A greedy request's
// seed decides nothing, and one without a seed has "any".
CacheKey CacheKeyOf(const CheckedRequest& request, const CacheScope& scope);

// Whether a request's answer may be kept, and taken from the cache: one that its client can repeat
// (greedy or seeded), or that asks for it.
bool IsCacheable(const CheckedRequest& request);

}  // namespace conclave::gateway

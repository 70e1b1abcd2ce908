// Finished answers by the hash of everything that decides them.
//
// Least recently used goes first, by bytes. Entries come through a small window into the main part,
// where they must be asked for more often than what they would push out (W-TinyLFU: Einziger,
// Friedman and Manes, ACM TOS 2017, section 4; with answers of different sizes as in Einziger,
// Eytan, Friedman and Manes, "Lightweight Robust Size Aware Cache Management", ACM TOS 2022,
// aggregated victims), so that a flood of questions asked once cannot empty it. The main part keeps
// what was hit again (protected) apart from what was not (probation).
//
// Thread-safe: the keys are spread over parts with a lock each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <vector>

#include "services/gateway/generation_sink.h"
#include "shared/base/clock.h"

namespace conclave::gateway {

// A larger answer is neither kept nor shared: it is replayed at once, and its reader must be able
// to take it in (as JSON an id with log-probabilities takes ten times as much).
inline constexpr size_t kMostKeptBytes = 256 << 10;

// One choice's answer, as the sink heard it.
struct RecordedChoice {
  std::vector<int32_t> ids;  // of its token events
  std::string text;
  std::vector<PositionLogprobs> logprobs;  // one an id, or none
  FinishReason reason = FinishReason::kStop;
  std::string stop;
  std::string last_text;             // what was held back until the end
  std::vector<int32_t> counted_ids;  // all that count: `ids`, and the stop id
};

// A whole answer. Immutable once it is in the cache.
struct RecordedGeneration {
  uint64_t seed = 0;
  std::string system_fingerprint;
  SharedIds prompt_ids;
  std::vector<RecordedChoice> choices;
  Usage usage;

  // Of memory, about.
  size_t bytes() const;
};

struct ResponseCacheOptions {
  size_t capacity_bytes = 64 << 20;
  Duration ttl = std::chrono::hours(1);
  size_t num_parts = 16;
};

class ResponseCache {
 public:
  // The clock outlives the cache.
  ResponseCache(ResponseCacheOptions options, const Clock* clock);
  ~ResponseCache();

  // nullptr: not here, or expired. Counts as a use of the key either way.
  std::shared_ptr<const RecordedGeneration> Find(const CacheKey& key);
  // Replaces what is there. An answer larger than a part of the cache is not kept.
  void Put(const CacheKey& key, std::shared_ptr<const RecordedGeneration> answer);

  struct Counts {
    int64_t entries = 0;
    int64_t bytes = 0;
    int64_t evicted = 0;   // pushed out after they had been let in
    int64_t rejected = 0;  // not let in: asked for less often than what is there
    int64_t expired = 0;
  };
  Counts counts() const;

 private:
  class Part;

  Part& PartOf(const CacheKey& key);

  const ResponseCacheOptions options_;
  std::vector<std::unique_ptr<Part>> parts_;
};

}  // namespace conclave::gateway

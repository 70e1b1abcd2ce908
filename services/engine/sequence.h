// One sequence: a choice of a request on its way through the engine, from its validated request to
// its last token.
//
// Requests come from the service's threads; everything else is owned by the scheduler and touched
// by the step thread alone.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "services/engine/block_address.h"
#include "services/engine/penalty_counts.h"
#include "shared/base/clock.h"
#include "shared/base/qos_class.h"

namespace conclave::engine {

// Which stream, and which sequence on it.
struct SequenceKey {
  uint64_t stream = 0;
  uint64_t id = 0;
  friend auto operator<=>(const SequenceKey&, const SequenceKey&) = default;
};

struct SamplingRequest {
  float temperature = 1;  // 0: greedy
  float top_p = 1;
  int32_t top_k = 0;  // 0: off
  float min_p = 0;
  float repetition_penalty = 1;
  float presence_penalty = 0;
  float frequency_penalty = 0;
  std::vector<std::pair<int32_t, float>> logit_bias;
  std::optional<int32_t> top_logprobs;  // none: no logprobs; n: the chosen token's and the n best
  double pace = 0;                      // tokens a second; 0: unlimited
};

struct SequenceRequest {
  SequenceKey key;
  std::vector<int32_t> prompt_ids;
  std::vector<int32_t>
      generated_ids;  // by another engine, already sent: this sequence goes on after them
  uint64_t seed = 0;
  uint32_t choice_index = 0;
  SamplingRequest sampling;
  int64_t max_tokens = 0;  // generated ids in all, those above included
  int64_t min_tokens = 0;  // no stop id is chosen before
  std::vector<int32_t> stop_ids;
  QosClass qos = QosClass::kInteractive;
  float tenant_weight = 1;
  std::optional<Duration> remaining;  // until the deadline, from when the request arrived here
  TimePoint arrived;                  // set where it enters
  std::string traceparent;
  std::string request_id;
  std::string tenant_salt;
};

// What the model must be able to take.
struct SequenceLimits {
  int32_t vocab_size = 0;
  int64_t context_tokens = 0;
};

// INVALID_ARGUMENT naming the field, what was found and what is allowed: ids outside of the
// vocabulary, an empty or too long prompt, NaN, a parameter out of its range.
absl::Status ValidateSequenceRequest(const SequenceRequest& request, const SequenceLimits& limits);

struct Sequence {
  SequenceRequest request;

  std::vector<int32_t> ids;  // prompt, then generated
  int64_t num_computed = 0;  // leading ids whose keys and values are in the cache
  int64_t length_limit = 0;  // ids at which it ends: max_tokens, clipped to the context
  std::vector<int32_t> blocks;
  int64_t num_sealed = 0;  // leading blocks that are full and addressed
  // Of the leading full blocks of `ids`, as far as they were asked for.
  std::vector<BlockAddress> addresses;
  PenaltyCounts penalties;

  // The place in the order of service, fixed on arrival (Scheduler).
  TimePoint deadline = TimePoint::max();
  TimePoint order_time;
  uint64_t arrival = 0;

  bool running = false;                    // holds blocks
  uint64_t last_step = 0;                  // step that last had a row of it
  TimePoint due;                           // paced: no row before this
  TimePoint retry_at;                      // parked: no row before this
  std::optional<TimePoint> missing_since;  // since when an expert that it needs is missing
  absl::Status missing;                    // which one

  // Usage.
  int64_t cached_tokens = 0;  // of the prompt, found in the cache when it was first admitted
  double engine_us = 0;       // its rows' share of each step
  double expert_us = 0;
  double kv_block_seconds = 0;
  TimePoint blocks_changed;  // kv_block_seconds is summed up to here
  int32_t preemptions = 0;
  bool started = false;  // has been in a step

  int64_t num_prompt() const { return static_cast<int64_t>(request.prompt_ids.size()); }
  int64_t num_generated() const { return static_cast<int64_t>(ids.size()) - num_prompt(); }
  int64_t num_to_compute() const { return static_cast<int64_t>(ids.size()) - num_computed; }
};

}  // namespace conclave::engine

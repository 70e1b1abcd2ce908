// From one row of logits to the next token. Pure: the same inputs give the same token on any
// machine.
//
// Called on the engine's step thread.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

#include "kernels/context.h"

namespace conclave::kernels {

// Applied in this order: logit bias, penalties, banned ids, temperature, top-k, top-p, min-p (as
// docs/numerics.md says).
struct SampleParameters {
  float temperature = 1.0f;         // 0: greedy
  int32_t top_k = 0;                // 0: off
  float top_p = 1.0f;               // (0, 1]
  float min_p = 0.0f;               // [0, 1]
  float repetition_penalty = 1.0f;  // over prompt and output; > 0
  float presence_penalty = 0.0f;    // over output
  float frequency_penalty = 0.0f;   // over output
  std::span<const std::pair<int32_t, float>> logit_bias;
  std::span<const int32_t> banned_ids;  // never chosen: stop ids before min_tokens
  int32_t num_top_logprobs = -1;        // -1: no logprobs; n: the chosen token's and the n best
};

// Where the draw comes from.
struct SamplePosition {
  uint64_t seed = 0;
  uint32_t choice_index = 0;
  uint32_t generated_index = 0;
};

// How often an id occurs so far, for the penalties; sorted by id, one entry an id.
struct TokenCount {
  int32_t id = 0;
  int32_t in_prompt = 0;
  int32_t in_output = 0;
};

struct TokenLogprob {
  int32_t id = 0;
  float logprob = 0.0f;
};

struct SampleResult {
  int32_t id = 0;
  float logprob = 0.0f;  // of `id`, of the model's raw distribution (before all of the above)
  std::vector<TokenLogprob> top_logprobs;  // descending, ties to the lower id
};

// Reusable memory; one per thread. It also says at which level to run: levels give the same tokens.
struct SampleScratch {
  struct Candidate {
    float logit = 0.0f;
    int32_t id = 0;
    uint64_t weight = 0;  // exp((logit - maximum) / temperature) in units of 2^-40
  };
  CpuLevel level = BestCpuLevel();
  std::vector<float> logits;       // [vocab_size] after bias, penalties and bans
  std::vector<float> raw;          // [vocab_size] of the model, for log-probabilities
  std::vector<float> maxima;       // of runs of the vocabulary
  std::vector<int32_t> ids;        // of what may stay, ascending
  std::vector<float> kept_logits;  // beside ids
  std::vector<uint64_t> weights;   // beside ids
  std::vector<Candidate> candidates;
};

// logits [vocab_size] f32, unchanged. Ties go to the lower id. NaN counts as -inf, +inf as the
// largest float; if nothing is above -inf (everything is banned, say), id 0 is chosen. Ids outside
// of the vocabulary in `parameters` and `counts` are ignored. Precondition: the parameters are in
// their ranges (checked where requests enter).
SampleResult Sample(const SampleParameters& parameters, const SamplePosition& position,
                    std::span<const TokenCount> counts, std::span<const float> logits,
                    SampleScratch& scratch);

}  // namespace conclave::kernels

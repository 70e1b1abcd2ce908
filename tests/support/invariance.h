// The invariance contract of docs/numerics.md as checks on a model: one set of expected bits, many
// ways to compute them.
//
// The expected bits are those of the plainest way: each prompt alone, in one step, by the scalar
// reference on one thread, with experts in this process. The checks take the rest from RigOptions,
// so that a suite runs over any level, number of threads and transport.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "tests/support/forward_rig.h"

namespace conclave::testing {

struct InvarianceCase {
  std::shared_ptr<const LoadedModel> model;
  std::vector<std::vector<int32_t>> prompts;
  std::vector<std::vector<float>> expected;  // per prompt [ids.size(), vocab_size]
};

// Prompts of the given lengths with ids drawn from the seed, and their expected bits.
InvarianceCase MakeInvarianceCase(std::shared_ptr<const LoadedModel> model,
                                  const std::vector<int64_t>& lengths, uint64_t seed);

// Fails the running test, naming the first different position, unless `rows` are the expected
// logits of positions [first_position, ...) of the prompt.
void ExpectLogits(const InvarianceCase& expected, size_t prompt, int64_t first_position,
                  const float* rows, int64_t num_rows, const std::string& how);

// Every prompt alone, in chunks of `chunk` tokens (0: whole; 1: as decoding does).
void ExpectSameAlone(const InvarianceCase& expected, const RigOptions& options, int64_t chunk);

// All prompts in one batch: in each step every sequence that is not through takes its next tokens,
// sequence s chunks of chunks[s % chunks.size()] tokens, so that prefill chunks and single tokens
// mix and sequences end one after the other.
void ExpectSameInBatch(const InvarianceCase& expected, const RigOptions& options,
                       const std::vector<int64_t>& chunks);

}  // namespace conclave::testing

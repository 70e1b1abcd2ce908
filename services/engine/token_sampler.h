// From the logits of a step to the next token of each sequence in it.
//
// Owned and used by the step thread; spreads the rows over its context's threads. A token is a
// function of the sequence's request, its ids so far and the logits, so that the company in the
// step and a change of engine alter nothing.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "kernels/context.h"
#include "kernels/sample.h"
#include "services/engine/sequence.h"

namespace conclave::engine {

// Whether Sequence::penalties must be kept.
bool UsesPenalties(const SamplingRequest& sampling);

struct SampleRow {
  const Sequence* sequence = nullptr;
  std::span<const float> logits;  // [vocab_size]
};

class TokenSampler {
 public:
  // The context outlives the sampler.
  explicit TokenSampler(kernels::Context* context);

  // One result a row, in order; valid until the next call.
  std::span<const kernels::SampleResult> Run(std::span<const SampleRow> rows);

 private:
  kernels::Context& context_;
  std::vector<kernels::SampleScratch> scratch_;  // one a thread
  std::vector<kernels::SampleResult> results_;
};

}  // namespace conclave::engine

#include "services/engine/token_sampler.h"

namespace conclave::engine {
namespace {

kernels::SampleResult SampleNext(const Sequence& sequence, std::span<const float> logits,
                                 kernels::SampleScratch& scratch) {
  const SequenceRequest& request = sequence.request;
  const SamplingRequest& sampling = request.sampling;
  kernels::SampleParameters parameters;
  parameters.temperature = sampling.temperature;
  parameters.top_k = sampling.top_k;
  parameters.top_p = sampling.top_p;
  parameters.min_p = sampling.min_p;
  parameters.repetition_penalty = sampling.repetition_penalty;
  parameters.presence_penalty = sampling.presence_penalty;
  parameters.frequency_penalty = sampling.frequency_penalty;
  parameters.logit_bias = sampling.logit_bias;
  if (sequence.num_generated() < request.min_tokens) parameters.banned_ids = request.stop_ids;
  parameters.num_top_logprobs = sampling.top_logprobs.value_or(-1);
  const kernels::SamplePosition position{
      .seed = request.seed,
      .choice_index = request.choice_index,
      .generated_index = static_cast<uint32_t>(sequence.num_generated())};
  return kernels::Sample(parameters, position, sequence.penalties.counts(), logits, scratch);
}

}  // namespace

bool UsesPenalties(const SamplingRequest& sampling) {
  return sampling.repetition_penalty != 1 || sampling.presence_penalty != 0 ||
         sampling.frequency_penalty != 0;
}

TokenSampler::TokenSampler(kernels::Context* context)
    : context_(*context), scratch_(context->pool().num_threads()) {
  for (kernels::SampleScratch& scratch : scratch_) scratch.level = context->level();
}

std::span<const kernels::SampleResult> TokenSampler::Run(std::span<const SampleRow> rows) {
  results_.resize(rows.size());
  context_.pool().ParallelFor(
      static_cast<int64_t>(rows.size()), 1, [&](int64_t begin, int64_t end, int thread) {
        for (int64_t row = begin; row < end; ++row) {
          results_[row] = SampleNext(*rows[row].sequence, rows[row].logits, scratch_[thread]);
        }
      });
  return results_;
}

}  // namespace conclave::engine

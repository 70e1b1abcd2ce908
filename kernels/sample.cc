#include "kernels/sample.h"

#include "kernels/ref/sample.h"

namespace conclave::kernels {

SampleResult Sample(const SampleParameters& parameters, const SamplePosition& position,
                    std::span<const TokenCount> counts, std::span<const float> logits,
                    SampleScratch& /*scratch*/) {
  return ref::Sample(parameters, position, counts, logits);
}

}  // namespace conclave::kernels

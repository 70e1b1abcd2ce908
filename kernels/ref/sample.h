// The plain form of kernels/sample.h: sorts the whole vocabulary. The oracle of the faster one.
#pragma once

#include <span>

#include "kernels/sample.h"

namespace conclave::kernels::ref {

SampleResult Sample(const SampleParameters& parameters, const SamplePosition& position,
                    std::span<const TokenCount> counts, std::span<const float> logits);

}  // namespace conclave::kernels::ref

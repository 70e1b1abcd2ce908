#include "kernels/ffn.h"

#include "kernels/ref/matmul.h"

namespace conclave::kernels {

void FeedForward(const FfnWeights& weights, MatrixView<const float> input, MatrixView<float> output,
                 Context& /*context*/) {
  ref::FeedForward(weights, input, output);
}

void ExpertFfn(std::span<const FfnWeights> experts, const ExpertBatch& batch,
               Context& /*context*/) {
  ref::ExpertFfn(experts, batch);
}

}  // namespace conclave::kernels

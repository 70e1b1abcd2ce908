#include "kernels/gate.h"

#include "kernels/ref/rows.h"

namespace conclave::kernels {

void Gate(const GateParameters& parameters, MatrixView<const float> logits, MatrixView<int32_t> ids,
          MatrixView<float> weights, Context& /*context*/) {
  ref::Gate(parameters, logits, ids, weights);
}

void CombineExperts(MatrixView<const float> rows, MatrixView<const float> weights,
                    MatrixView<float> accumulator, Context& /*context*/) {
  ref::CombineExperts(rows, weights, accumulator);
}

}  // namespace conclave::kernels

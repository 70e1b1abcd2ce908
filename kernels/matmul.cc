#include "kernels/matmul.h"

#include "kernels/ref/matmul.h"

namespace conclave::kernels {

void Matmul(const PackedMatrix& weight, MatrixView<const float> input, MatrixView<float> output,
            Context& /*context*/) {
  ref::Matmul(weight, nullptr, input, output);
}

void MatmulBias(const PackedMatrix& weight, const float* bias, MatrixView<const float> input,
                MatrixView<float> output, Context& /*context*/) {
  ref::Matmul(weight, bias, input, output);
}

}  // namespace conclave::kernels

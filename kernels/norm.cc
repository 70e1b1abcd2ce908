#include "kernels/norm.h"

#include "kernels/cpu/rows.h"
#include "kernels/grain.h"
#include "kernels/ref/rows.h"

namespace conclave::kernels {

void RmsNorm(MatrixView<const float> input, const float* weight, float epsilon,
             MatrixView<float> output, Context& context) {
  if (context.level() == CpuLevel::kReference) {
    ref::RmsNorm(input, weight, epsilon, output);
    return;
  }
  context.pool().ParallelFor(
      input.rows, RowGrain(input.cols), [&](int64_t begin, int64_t end, int) {
        for (int64_t r = begin; r < end; ++r) {
          cpu::RowsFor(context.level())
              .norm(input.Row(r), weight, epsilon, input.cols, output.Row(r));
        }
      });
}

}  // namespace conclave::kernels

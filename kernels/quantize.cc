#include "kernels/quantize.h"

#include "kernels/context.h"
#include "kernels/cpu/quantize.h"
#include "kernels/ref/quantize.h"

namespace conclave::kernels {

float QuantizeGroup(WeightType type, std::span<const float> values, int8_t* quantized) {
  static const CpuLevel level = BestCpuLevel();  // no context: the bits are the same
  return level == CpuLevel::kReference ? ref::QuantizeGroup(type, values, quantized)
                                       : cpu::QuantizeFor(level).group(type, values, quantized);
}

}  // namespace conclave::kernels

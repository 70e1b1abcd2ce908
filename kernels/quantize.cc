#include "kernels/quantize.h"

#include "kernels/context.h"
#include "kernels/cpu/quantize_avx512.h"
#include "kernels/ref/quantize.h"

namespace conclave::kernels {

float QuantizeGroup(WeightType type, std::span<const float> values, int8_t* quantized) {
  const bool avx512 = CpuSupports(CpuLevel::kAvx512);  // no context: the bits are the same
  return avx512 ? cpu::QuantizeGroup(type, values, quantized)
                : ref::QuantizeGroup(type, values, quantized);
}

}  // namespace conclave::kernels

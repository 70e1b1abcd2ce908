#include "kernels/cpu/level_functions.h"

#include "kernels/cpu/chain.h"

namespace conclave::kernels::cpu {
namespace {

// Whether the level's lanes are those of AVX-512, else of AVX2.
bool HasAvx512(CpuLevel level) { return level >= CpuLevel::kAvx512; }

}  // namespace

const RowFunctions& RowsFor(CpuLevel level) { return HasAvx512(level) ? kRowsAvx512 : kRowsAvx2; }

const SoftmaxFunctions& SoftmaxFor(CpuLevel level) {
  return HasAvx512(level) ? kSoftmaxAvx512 : kSoftmaxAvx2;
}

const QuantizeFunctions& QuantizeFor(CpuLevel level) {
  return HasAvx512(level) ? kQuantizeAvx512 : kQuantizeAvx2;
}

const LogitFunctions& LogitsFor(CpuLevel level) {
  return HasAvx512(level) ? kLogitsAvx512 : kLogitsAvx2;
}

PanelTurnFunction PanelTurnFor(CpuLevel level) {
  return HasAvx512(level) ? TurnPanelAvx512 : TurnPanelAvx2;
}

ChainFunction ChainFor(CpuLevel level, WeightFormat format) {
  switch (format.type) {
    case WeightType::kF32:
      return HasAvx512(level) ? ChainF32Avx512 : ChainF32Avx2;
    case WeightType::kBf16:
      if (level == CpuLevel::kAvx512Bf16) return ChainBf16Avx512Bf16;
      return HasAvx512(level) ? ChainBf16Avx512 : ChainBf16Avx2;
    case WeightType::kInt8:
    case WeightType::kInt4:
      break;
  }
  if (level >= CpuLevel::kAvx512Vnni) return ChainIntegersAvx512Vnni;
  if (level == CpuLevel::kAvx512) return ChainIntegersAvx512;
  return level == CpuLevel::kAvx2Vnni ? ChainIntegersAvx2Vnni : ChainIntegersAvx2;
}

}  // namespace conclave::kernels::cpu

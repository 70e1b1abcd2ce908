#include "kernels/cpu/chain.h"

#include <algorithm>

namespace conclave::kernels::cpu {
namespace {

// 8 panels x 512 steps x 64 bytes are 256 KiB: half of the smallest second-level cache among
// AVX-512 processors.
constexpr int64_t kRunSteps = 512;

}  // namespace

ChainFunction ChainFor(CpuLevel level, WeightFormat format) {
  if (format == WeightFormat::kF32) return ChainF32Avx512;
  return level == CpuLevel::kAvx512Bf16 ? ChainBf16Avx512Bf16 : ChainBf16Avx512;
}

void RunChain(ChainFunction chain, const ChainBlock& block) {
  if (block.num_rows <= kTileRows || block.steps <= kRunSteps || block.num_runs > 1) {
    chain(block);
    return;
  }
  for (int64_t panel = 0; panel < block.num_panels; panel += kTilePanels) {
    const std::byte* panels[kTilePanels];
    ChainBlock part = block;
    part.panels = panels;
    part.num_panels = std::min(kTilePanels, block.num_panels - panel);
    part.output = block.output + panel * kPanelOutputs;
    part.num_outputs =
        std::min(part.num_panels * kPanelOutputs, block.num_outputs - panel * kPanelOutputs);
    for (int64_t step = 0; step < block.steps; step += kRunSteps) {
      for (int64_t p = 0; p < part.num_panels; ++p) {
        panels[p] = block.panels[panel + p] + step * kStepPanelBytes;
      }
      part.input = block.input + step * kStepInputBytes;
      part.steps = std::min(kRunSteps, block.steps - step);
      part.resume = block.resume || step > 0;
      chain(part);
    }
  }
}

}  // namespace conclave::kernels::cpu

#include "kernels/cpu/chain.h"

#include <algorithm>

#include "kernels/cpu/rounded_rows.h"

namespace conclave::kernels::cpu {
namespace {

// 8 panels of so many bytes are 256 KiB: half of the smallest second-level cache among AVX-512
// processors, and of most that have AVX2.
constexpr int64_t kRunPanelBytes = 32 << 10;

}  // namespace

void RunChain(ChainFunction chain, const ChainBlock& block) {
  const int64_t step_bytes = StepPanelBytes(block.format);
  const int64_t run_steps = kRunPanelBytes / step_bytes;
  if (block.num_rows <= kTileRows || block.steps <= run_steps || block.num_runs > 1) {
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
    for (int64_t step = 0; step < block.steps; step += run_steps) {
      for (int64_t p = 0; p < part.num_panels; ++p) {
        panels[p] = block.panels[panel + p] + step * step_bytes;
      }
      part.input = block.input + step * StepRowBytes(block.format);
      part.steps = std::min(run_steps, block.steps - step);
      part.resume = block.resume || step > 0;
      // After a run comes the next one of the same panels, and after the last the next panels'
      // first.
      const bool last = step + run_steps >= block.steps;
      if (block.next_panels != 0) {
        part.next_panels = last ? block.next_panels - step * step_bytes : run_steps * step_bytes;
      }
      chain(part);
    }
  }
}

}  // namespace conclave::kernels::cpu

// A value panel made from key panels: the cache of MLA holds its latent once, by position, and sums
// of values want it by dimension.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/context.h"
#include "kernels/matrix.h"

namespace conclave::kernels::cpu {

// All pointers are 64-byte aligned.
struct PanelTurn {
  WeightFormat format;
  const std::byte* key_panels[2];  // of a block, of `key_dim` dimensions each
  int64_t key_dim = 0;
  int64_t first = 0;                 // a multiple of 16
  std::byte* value_panel = nullptr;  // of the block's dimensions [first, first + 16)
};

// Writes the value panel; dimensions at and beyond key_dim are zero. The values keep their bits.
using PanelTurnFunction = void (*)(const PanelTurn& turn);

// Precondition: `level` is above kReference and supported.
PanelTurnFunction PanelTurnFor(CpuLevel level);

}  // namespace conclave::kernels::cpu

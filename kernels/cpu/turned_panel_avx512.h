// A value panel made from key panels: the cache of MLA holds its latent once, by position, and sums
// of values want it by dimension.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/matrix.h"

namespace conclave::kernels::cpu {

// Writes the panel of a block's dimensions [first, first + 16), first a multiple of 16, from the
// block's two key panels of `key_dim` dimensions; dimensions at and beyond key_dim are zero. The
// values keep their bits. All pointers are 64-byte aligned.
void TurnPanel(WeightFormat format, const std::byte* const key_panels[2], int64_t key_dim,
               int64_t first, std::byte* value_panel);

}  // namespace conclave::kernels::cpu

// The register tile that the three chain functions share. Included only by files compiled for
// AVX-512, into their anonymous namespace's types, so that no function of one instruction set is
// taken for that of another.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "kernels/cpu/chain.h"

namespace conclave::kernels::cpu {

// `Step` is the arithmetic of one step:
//   Weight Step::LoadWeight(const std::byte*)            64 bytes of a panel
//   Input Step::LoadInput(const std::byte*)              4 bytes of a row, in every lane
//   __m512 Step::Apply(Input, Weight, __m512 sum)
template <typename Step, int kRows, int kPanels>
[[gnu::noinline]] void RunTile(const ChainBlock& block, int64_t row, int64_t panel) {
  __m512 sums[kRows][kPanels];
  float* output = block.output + row * block.output_stride + panel * kPanelOutputs;
  const int64_t columns = block.num_outputs - panel * kPanelOutputs;
  const auto mask = [&](int p) -> __mmask16 {
    const int64_t lanes = columns - p * kPanelOutputs;
    return lanes >= kPanelOutputs ? 0xffff : static_cast<__mmask16>((1u << lanes) - 1);
  };
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      sums[r][p] = block.resume ? _mm512_maskz_loadu_ps(
                                      mask(p), output + r * block.output_stride + p * kPanelOutputs)
                                : _mm512_setzero_ps();
    }
  }
  const std::byte* rows[kRows];
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) rows[r] = block.input + (row + r) * block.input_stride;

  for (int64_t run = 0; run < block.num_runs; ++run) {
    const std::byte* panels[kPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) panels[p] = block.panels[run * block.num_panels + panel + p];
    for (int64_t s = 0; s < block.steps; ++s) {
      typename Step::Input inputs[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) inputs[r] = Step::LoadInput(rows[r] + s * kStepInputBytes);
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) {
        const typename Step::Weight weight = Step::LoadWeight(panels[p] + s * kStepPanelBytes);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) sums[r][p] = Step::Apply(inputs[r], weight, sums[r][p]);
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) rows[r] += block.steps * kStepInputBytes;
  }

#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      float* sum = output + r * block.output_stride + p * kPanelOutputs;
      // Masked stores are slow on some processors.
      if (mask(p) == 0xffff) {
        _mm512_storeu_ps(sum, sums[r][p]);
      } else {
        _mm512_mask_storeu_ps(sum, mask(p), sums[r][p]);
      }
    }
  }
}

// All panels for the rows [row, row + kRows).
template <typename Step, int kRows>
void RunRows(const ChainBlock& block, int64_t row, int64_t first_panel, int64_t end_panel) {
  constexpr int kWide = kRows <= 3 ? 8 : 4;
  int64_t p = first_panel;
  for (; p + kWide <= end_panel; p += kWide) RunTile<Step, kRows, kWide>(block, row, p);
  if constexpr (kWide == 8) {
    if (p + 4 <= end_panel) {
      RunTile<Step, kRows, 4>(block, row, p);
      p += 4;
    }
  }
  if (p + 2 <= end_panel) {
    RunTile<Step, kRows, 2>(block, row, p);
    p += 2;
  }
  if (p < end_panel) RunTile<Step, kRows, 1>(block, row, p);
}

template <typename Step>
void RunChainBlock(const ChainBlock& block) {
  const int64_t tiles = (block.num_rows + kTileRows - 1) / kTileRows;
  // Panels outside, rows inside: a group of panels stays in the cache while all rows use it.
  for (int64_t panel = 0; panel < block.num_panels; panel += kTilePanels) {
    const int64_t end = std::min(panel + kTilePanels, block.num_panels);
    int64_t row = 0;
    for (int64_t tile = 0; tile < tiles; ++tile) {
      // Even tiles: 7 rows are 4 + 3, not 6 + 1.
      const int64_t rows = (block.num_rows - row + tiles - tile - 1) / (tiles - tile);
      switch (rows) {
        case 1:
          RunRows<Step, 1>(block, row, panel, end);
          break;
        case 2:
          RunRows<Step, 2>(block, row, panel, end);
          break;
        case 3:
          RunRows<Step, 3>(block, row, panel, end);
          break;
        case 4:
          RunRows<Step, 4>(block, row, panel, end);
          break;
        case 5:
          RunRows<Step, 5>(block, row, panel, end);
          break;
        default:
          RunRows<Step, 6>(block, row, panel, end);
          break;
      }
      row += rows;
    }
  }
}

}  // namespace conclave::kernels::cpu

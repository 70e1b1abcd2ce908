// A chain function made of register tiles: which tiles, in which order, over a block's rows and
// panels. Included as kernels/cpu/tile_sums.h is.
#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>

#include "kernels/cpu/chain.h"
#include "kernels/cpu/float_tile.h"
#include "kernels/cpu/integer_tile.h"

namespace conclave::kernels::cpu {

// Steps of rows that are widened at once: of 6 rows 24 KiB, within any first-level cache.
constexpr int64_t kMostWidenedSteps = 512;

// Up to so many rows are bound by memory, whose panels are read faster side by side. With more they
// are in the cache: other rows have used or fetched them.
constexpr int64_t kMostRowsFromMemory = 2 * kTileRows;

// All panels for the rows [row, row + kRows), at most `kWide` at once.
template <typename Tile, int kRows, int kWide, bool kFetch>
void RunRowsWide(const ChainBlock& block, int64_t row, int64_t first_panel, int64_t end_panel,
                 NextPanels next) {
  int64_t p = first_panel;
  for (; p + kWide <= end_panel; p += kWide) {
    if (next.after != nullptr) {
      const int64_t following = p + kWide;
      next.ahead = (following < end_panel ? block.panels[following] : next.after) - block.panels[p];
    }
    Tile::template Run<kRows, kWide, kFetch>(block, row, p, next);
  }
  if constexpr (kWide > 1) {
    if (p < end_panel) {
      RunRowsWide<Tile, kRows, (kWide + 1) / 2, kFetch>(block, row, p, end_panel, next);
    }
  }
}

// All panels for rows that `Step` takes widened: all panels share them, which saves more than it
// costs. Precondition: a part of the rows is widened at once, or there is one run.
template <typename Step, int kRows>
void RunWidenedRows(const ChainBlock& block, int64_t row, int64_t first_panel, int64_t end_panel,
                    bool fetch) {
  using Tile = FloatTile<Step>;
  constexpr int kWide = Tile::Register::kWidePanels[kRows - 1];
  alignas(64) std::byte widened[kRows * kMostWidenedSteps * Step::kRowBytes];
  const std::byte* panels[kTilePanels];
  ChainBlock part = block;
  part.input = widened;
  part.input_stride = kMostWidenedSteps * Step::kRowBytes;
  part.num_outputs = block.num_outputs - first_panel * kPanelOutputs;
  part.output = block.output + row * block.output_stride + first_panel * kPanelOutputs;
  const int64_t end = block.num_runs * block.steps;
  for (int64_t step = 0; step < end; step += kMostWidenedSteps) {
    const int64_t steps = std::min(kMostWidenedSteps, end - step);
    for (int64_t r = 0; r < kRows; ++r) {
      Step::WidenRow(block.input + (row + r) * block.input_stride + step * kStepRowBytes, steps,
                     widened + r * part.input_stride);
    }
    if (block.num_runs > 1) {
      part.panels = block.panels + first_panel;
    } else {
      for (int64_t p = first_panel; p < end_panel; ++p) {
        panels[p - first_panel] = block.panels[p] + step * kScalesBytes;
      }
      part.panels = panels;
      part.steps = steps;
    }
    part.resume = block.resume || step > 0;
    NextPanels next;
    if (fetch) {
      const bool last = step + steps == end;
      next.after = panels[0] + (last ? block.next_panels - step * kScalesBytes
                                     : kMostWidenedSteps * kScalesBytes);
      RunRowsWide<Tile, kRows, kWide, true>(part, 0, 0, end_panel - first_panel, next);
    } else {
      RunRowsWide<Tile, kRows, kWide, false>(part, 0, 0, end_panel - first_panel, next);
    }
  }
}

template <typename Tile, int kRows>
void RunRows(const ChainBlock& block, int64_t row, int64_t first_panel, int64_t end_panel,
             NextPanels next) {
  using Register = typename Tile::Register;
  constexpr int kWide = Register::kWidePanels[kRows - 1];
  // Where registers are few, panels are read one after the other, and come from memory much faster
  // if the first rows that use one fetch the next meanwhile.
  const bool in_turn = Register::kCount <= 16 && next.part == 0 && next.ahead != 0 &&
                       block.num_runs == 1 &&
                       (!Tile::kNarrowFromCache || block.num_rows <= kMostRowsFromMemory);
  if constexpr (Tile::kWidensRows && kRows >= 4) {
    if (block.num_runs == 1 || block.num_runs * block.steps <= kMostWidenedSteps) {
      RunWidenedRows<typename Tile::Step::Widened, kRows>(block, row, first_panel, end_panel,
                                                          in_turn);
      return;
    }
  }
  if constexpr (Register::kCount <= 16) {
    if (in_turn) {
      next.parts = 1;
      next.after = block.panels[first_panel] + block.next_panels;
      RunRowsWide<Tile, kRows, kWide, true>(block, row, first_panel, end_panel, next);
      return;
    }
  }
  if constexpr (Tile::kNarrowFromCache && kRows >= 4) {
    constexpr int kNarrow = Register::kNarrowPanels;
    if (block.num_rows > kMostRowsFromMemory) {
      if (next.ahead != 0) {
        RunRowsWide<Tile, kRows, kNarrow, true>(block, row, first_panel, end_panel, next);
      } else {
        RunRowsWide<Tile, kRows, kNarrow, false>(block, row, first_panel, end_panel, next);
      }
      return;
    }
  }
  RunRowsWide<Tile, kRows, kWide, false>(block, row, first_panel, end_panel, next);
}

// Of the tiles that share the panels, those that fetch the next ones.
constexpr int64_t kMostFetchingTiles = 8;

template <typename Tile>
void RunChainBlock(const ChainBlock& block) {
  const int64_t tiles = (block.num_rows + kTileRows - 1) / kTileRows;
  // Panels outside, rows inside: a group of panels stays in the cache while all rows use it.
  for (int64_t panel = 0; panel < block.num_panels; panel += kTilePanels) {
    const int64_t end = std::min(panel + kTilePanels, block.num_panels);
    int64_t row = 0;
    NextPanels next;
    next.parts = std::min<int64_t>(tiles, kMostFetchingTiles);
    for (int64_t tile = 0; tile < tiles; ++tile) {
      next.ahead = tile < next.parts ? block.next_panels : 0;
      next.part = tile;
      // Even tiles: 7 rows are 4 + 3, not 6 + 1.
      const int64_t rows = (block.num_rows - row + tiles - tile - 1) / (tiles - tile);
      switch (rows) {
        case 1:
          RunRows<Tile, 1>(block, row, panel, end, next);
          break;
        case 2:
          RunRows<Tile, 2>(block, row, panel, end, next);
          break;
        case 3:
          RunRows<Tile, 3>(block, row, panel, end, next);
          break;
        case 4:
          RunRows<Tile, 4>(block, row, panel, end, next);
          break;
        case 5:
          RunRows<Tile, 5>(block, row, panel, end, next);
          break;
        default:
          RunRows<Tile, 6>(block, row, panel, end, next);
          break;
      }
      row += rows;
    }
  }
}

}  // namespace conclave::kernels::cpu

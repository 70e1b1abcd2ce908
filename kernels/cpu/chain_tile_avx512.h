// The register tiles that the chain functions share. Included only by files compiled for AVX-512,
// with types of their anonymous namespaces, so that no function of one instruction set is taken for
// that of another.
#pragma once

#include <immintrin.h>

#include <algorithm>

#include "kernels/cpu/chain.h"

namespace conclave::kernels::cpu {

// The running sums of kRows rows and kPanels panels from (row, panel) on, for a tile of type
// `Tile`.
template <typename Tile, int kRows, int kPanels>
class TileSums {
 public:
  TileSums(const ChainBlock& block, int64_t row, int64_t panel)
      : output_(block.output + row * block.output_stride + panel * kPanelOutputs),
        stride_(block.output_stride),
        columns_(block.num_outputs - panel * kPanelOutputs) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) {
        at[r][p] = block.resume ? _mm512_maskz_loadu_ps(Mask(p), At(r, p)) : _mm512_setzero_ps();
      }
    }
  }

  void Store() const {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) {
        // Masked stores are slow on some processors.
        if (Mask(p) == 0xffff) {
          _mm512_storeu_ps(At(r, p), at[r][p]);
        } else {
          _mm512_mask_storeu_ps(At(r, p), Mask(p), at[r][p]);
        }
      }
    }
  }

  __m512 at[kRows][kPanels];

 private:
  float* At(int r, int p) const { return output_ + r * stride_ + p * kPanelOutputs; }
  __mmask16 Mask(int p) const {
    const int64_t lanes = columns_ - p * kPanelOutputs;
    return lanes >= kPanelOutputs ? 0xffff : static_cast<__mmask16>((1u << lanes) - 1);
  }

  float* output_;
  int64_t stride_, columns_;
};

// What a tile of rows fetches of the next panels while it multiplies: every `parts`-th line, from
// line `part` on.
struct NextPanels {
  int64_t ahead = 0;  // bytes from a panel to the next one; 0: none
  int64_t part = 0, parts = 1;

  // Of the `bytes` that follow this address.
  [[gnu::always_inline]] void Fetch(const std::byte* panel, int64_t bytes) const {
    constexpr int64_t kLineBytes = 64;
    for (int64_t at = part * kLineBytes; at < bytes; at += parts * kLineBytes) {
      _mm_prefetch(reinterpret_cast<const char*>(panel) + ahead + at, _MM_HINT_T1);
    }
  }
};

// Formats f32 and bf16. `Step` is the arithmetic of one step:
//   Weight Step::LoadWeight(const std::byte*)            64 bytes of a panel
//   Input Step::LoadInput(const std::byte*)              4 bytes of a row, in every lane
//   __m512 Step::Apply(Input, Weight, __m512 sum)
template <typename Step>
struct FloatTile {
  static constexpr bool kNarrowFromCache = false;

  template <int kRows, int kPanels, bool kFetch>
  [[gnu::noinline]] static void Run(const ChainBlock& block, int64_t row, int64_t panel,
                                    NextPanels) {
    constexpr int64_t kRowBytes = 4, kPanelBytes = 64;  // of a step
    TileSums<FloatTile, kRows, kPanels> sums(block, row, panel);
    const std::byte* rows[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) rows[r] = block.input + (row + r) * block.input_stride;

    for (int64_t run = 0; run < block.num_runs; ++run) {
      const std::byte* panels[kPanels];
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p)
        panels[p] = block.panels[run * block.num_panels + panel + p];
      for (int64_t s = 0; s < block.steps; ++s) {
        typename Step::Input inputs[kRows];
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) inputs[r] = Step::LoadInput(rows[r] + s * kRowBytes);
#pragma GCC unroll 8
        for (int p = 0; p < kPanels; ++p) {
          const typename Step::Weight weight = Step::LoadWeight(panels[p] + s * kPanelBytes);
#pragma GCC unroll 8
          for (int r = 0; r < kRows; ++r) {
            sums.at[r][p] = Step::Apply(inputs[r], weight, sums.at[r][p]);
          }
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) rows[r] += block.steps * kRowBytes;
    }
    sums.Store();
  }
};

// Format int8 or int4, whose chains have one run. `Dot` is the arithmetic of four inputs:
//   Input Dot::LoadInput(const std::byte*)               4 bytes of a row, in every lane
//   __m512i Dot::Apply(Input, __m512i bytes, __m512i sum)
// adds to each lane of `sum` the products of its four unsigned `bytes` and the four signed inputs.
// `kZeros`: of int4, a group's scale has its zero point in the lowest four bits.
template <typename Dot, bool kInt4, bool kZeros = false>
struct IntegerTile {
  // So many dots and as many sums fit the registers beside inputs and weights.
  static constexpr int kMostInRegisters = 12;
  static constexpr bool kNarrowFromCache = true;

  template <int kRows, int kPanels, bool kFetch>
  [[gnu::noinline]] static void Run(const ChainBlock& block, int64_t row, int64_t panel,
                                    NextPanels next) {
    const int64_t group = block.format.group;
    const int64_t words = group / (kInt4 ? 8 : 4);  // of 64 bytes
    const int64_t row_bytes = group + 8, panel_bytes = kScalesBytes + words * 64;
    TileSums<IntegerTile, kRows, kPanels> sums(block, row, panel);
    const std::byte* rows[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) rows[r] = block.input + (row + r) * block.input_stride;
    const std::byte* panels[kPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) panels[p] = block.panels[panel + p];

    for (int64_t s = 0; s < block.steps; ++s) {
      __m512i dots[kRows][kPanels];
      Start(dots, rows, panels, group);
      if constexpr (kFetch) {
#pragma GCC unroll 8
        for (int p = 0; p < kPanels; ++p) next.Fetch(panels[p], panel_bytes);
      }
      for (int64_t w = 0; w < words; ++w) {
        const auto bytes = [&](int p) {
          return _mm512_loadu_si512(panels[p] + kScalesBytes + w * 64);
        };
        if constexpr (kInt4) {
          const __m512i half = _mm512_set1_epi8(15);
          Multiply(dots, rows, w * 8, [&](int p) { return _mm512_and_si512(bytes(p), half); });
          Multiply(dots, rows, w * 8 + 4,
                   [&](int p) { return _mm512_and_si512(_mm512_srli_epi16(bytes(p), 4), half); });
        } else {
          Multiply(dots, rows, w * 4, bytes);
        }
      }
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) {
        const __m512 scale = Scale(panels[p]);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const __m512 row_scale = _mm512_set1_ps(*reinterpret_cast<const float*>(rows[r] + group));
          sums.at[r][p] = _mm512_fmadd_ps(_mm512_cvtepi32_ps(dots[r][p]),
                                          _mm512_mul_ps(row_scale, scale), sums.at[r][p]);
        }
        panels[p] += panel_bytes;
      }
      // Where both are too many, the sums stay in memory and the registers belong to the dots.
      if constexpr (kRows < 4 || kRows * kPanels > kMostInRegisters) {
        asm volatile("" : : "r"(&sums) : "memory");
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) rows[r] += row_bytes;
    }
    sums.Store();
  }

 private:
  static __m512 Scale(const std::byte* panel) {
    if constexpr (!kZeros) return _mm512_loadu_ps(panel);
    return _mm512_castsi512_ps(
        _mm512_andnot_si512(_mm512_set1_epi32(15), _mm512_loadu_si512(panel)));
  }

  // What the offset or zero point of the weights adds to each sum, negated.
  template <int kRows, int kPanels>
  [[gnu::always_inline]] static void Start(__m512i (&dots)[kRows][kPanels],
                                           const std::byte* const (&rows)[kRows],
                                           const std::byte* const (&panels)[kPanels],
                                           int64_t group) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      int start;
      __builtin_memcpy(&start, rows[r] + group + 4, sizeof(start));
      if (kInt4 && !kZeros) start *= 8;
      const __m512i starts = _mm512_set1_epi32(start);
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) {
        if constexpr (kZeros) {  // below 2^15 both: a product of words
          const __m512i zeros =
              _mm512_and_si512(_mm512_loadu_si512(panels[p]), _mm512_set1_epi32(15));
          dots[r][p] = _mm512_madd_epi16(zeros, starts);
        } else {
          dots[r][p] = starts;
        }
      }
    }
  }

  // Adds the products of the inputs at an offset of each row and `bytes` of each panel.
  template <int kRows, int kPanels, typename Bytes>
  [[gnu::always_inline]] static void Multiply(__m512i (&dots)[kRows][kPanels],
                                              const std::byte* const (&rows)[kRows], int64_t offset,
                                              Bytes bytes) {
    typename Dot::Input inputs[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) inputs[r] = Dot::LoadInput(rows[r] + offset);
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) {
      const __m512i weights = bytes(p);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) dots[r][p] = Dot::Apply(inputs[r], weights, dots[r][p]);
    }
  }
};

// Up to so many rows are bound by memory, whose panels are read faster side by side. With more they
// are in the cache: other rows have used or fetched them.
constexpr int64_t kMostRowsFromMemory = 2 * kTileRows;

// All panels for the rows [row, row + kRows), at most `kWide` at once.
template <typename Tile, int kRows, int kWide, bool kFetch>
void RunRowsWide(const ChainBlock& block, int64_t row, int64_t first_panel, int64_t end_panel,
                 NextPanels next) {
  int64_t p = first_panel;
  for (; p + kWide <= end_panel; p += kWide) {
    Tile::template Run<kRows, kWide, kFetch>(block, row, p, next);
  }
  if constexpr (kWide == 8) {
    if (p + 4 <= end_panel) {
      Tile::template Run<kRows, 4, kFetch>(block, row, p, next);
      p += 4;
    }
  }
  if constexpr (kWide >= 4) {
    if (p + 2 <= end_panel) {
      Tile::template Run<kRows, 2, kFetch>(block, row, p, next);
      p += 2;
    }
  }
  if (p < end_panel) Tile::template Run<kRows, 1, kFetch>(block, row, p, next);
}

template <typename Tile, int kRows>
void RunRows(const ChainBlock& block, int64_t row, int64_t first_panel, int64_t end_panel,
             NextPanels next) {
  if constexpr (Tile::kNarrowFromCache && kRows >= 4) {
    if (block.num_rows > kMostRowsFromMemory) {
      if (next.ahead != 0) {
        RunRowsWide<Tile, kRows, 2, true>(block, row, first_panel, end_panel, next);
      } else {
        RunRowsWide<Tile, kRows, 2, false>(block, row, first_panel, end_panel, next);
      }
      return;
    }
  }
  RunRowsWide<Tile, kRows, kRows <= 3 ? 8 : 4, false>(block, row, first_panel, end_panel, next);
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

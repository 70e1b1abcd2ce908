// The register tiles that the chain functions share. Included only by files compiled for an
// instruction set, with types of their anonymous namespaces, so that no function of one set is
// taken for that of another.
//
// `Register` is one vector register of an instruction set: kernels/cpu/register_avx512.h or
// register_avx2.h. A panel's 16 outputs are in one or two of them.
#pragma once

#include <algorithm>

#include "kernels/cpu/chain.h"

namespace conclave::kernels::cpu {

// The running sums of kRows rows and kPanels panels from (row, panel) on, in columns of a register.
template <typename Register, int kRows, int kPanels>
class TileSums {
 public:
  static constexpr int kColumns = kPanels * (kPanelOutputs / Register::kLanes);

  TileSums(const ChainBlock& block, int64_t row, int64_t panel)
      : output_(block.output + row * block.output_stride + panel * kPanelOutputs),
        stride_(block.output_stride),
        outputs_(block.num_outputs - panel * kPanelOutputs) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) {
        at[r][c] = block.resume ? Register::LoadFirst(At(r, c), Existing(c)) : Register::Zero();
      }
    }
  }

  void Store() const {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) Register::StoreFirst(At(r, c), Existing(c), at[r][c]);
    }
  }

  typename Register::Floats at[kRows][kColumns];

 private:
  float* At(int r, int c) const { return output_ + r * stride_ + c * Register::kLanes; }
  int64_t Existing(int c) const { return outputs_ - c * Register::kLanes; }  // from column c on

  float* output_;
  int64_t stride_, outputs_;
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
      __builtin_prefetch(panel + ahead + at, 0, 2);  // into the second level
    }
  }
};

// Formats f32 and bf16. `Step` is the arithmetic of one step, which has kParts parts:
//   Step::Register, Step::Operand
//   Operand Step::LoadWeight<part>(const std::byte*)     a register's bytes of a panel
//   Operand Step::LoadInput<part>(const std::byte*)      4 bytes of a row, in every lane
//   Floats Step::Apply(Operand input, Operand weight, Floats sum)
template <typename Step>
struct FloatTile {
  using Register = typename Step::Register;
  static constexpr bool kNarrowFromCache = false;

  template <int kRows, int kPanels, bool kFetch>
  [[gnu::noinline]] static void Run(const ChainBlock& block, int64_t row, int64_t panel,
                                    NextPanels) {
    constexpr int64_t kRowBytes = 4, kPanelBytes = 64;  // of a step
    Sums<kRows, kPanels> sums(block, row, panel);
    const std::byte* rows[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) rows[r] = block.input + (row + r) * block.input_stride;

    for (int64_t run = 0; run < block.num_runs; ++run) {
      const std::byte* panels[kPanels];
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p)
        panels[p] = block.panels[run * block.num_panels + panel + p];
      for (int64_t s = 0; s < block.steps; ++s) {
        const std::byte* inputs[kRows];
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) inputs[r] = rows[r] + s * kRowBytes;
        const std::byte* weights[kPanels];
#pragma GCC unroll 8
        for (int p = 0; p < kPanels; ++p) weights[p] = panels[p] + s * kPanelBytes;
        AddPart<0>(inputs, weights, sums);
        if constexpr (Step::kParts == 2) AddPart<1>(inputs, weights, sums);
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) rows[r] += block.steps * kRowBytes;
    }
    sums.Store();
  }

 private:
  template <int kRows, int kPanels>
  using Sums = TileSums<Register, kRows, kPanels>;

  // What is fewer, inputs or weights, is held in registers while the others pass by.
  template <int kPart, int kRows, int kPanels>
  [[gnu::always_inline]] static void AddPart(const std::byte* const (&inputs)[kRows],
                                             const std::byte* const (&weights)[kPanels],
                                             Sums<kRows, kPanels>& sums) {
    using Operand = typename Step::Operand;
    constexpr int kColumns = Sums<kRows, kPanels>::kColumns;
    const auto weight = [&](int c) {
      constexpr int kRegisters = kColumns / kPanels, kBytes = Register::kLanes * 4;
      return Step::template LoadWeight<kPart>(weights[c / kRegisters] + c % kRegisters * kBytes);
    };
    if constexpr (kRows <= kColumns || Register::kCount > 16) {
      Operand held[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) held[r] = Step::template LoadInput<kPart>(inputs[r]);
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) {
        const Operand passing = weight(c);
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          sums.at[r][c] = Step::Apply(held[r], passing, sums.at[r][c]);
        }
      }
    } else {
      Operand held[kColumns];
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) held[c] = weight(c);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Operand passing = Step::template LoadInput<kPart>(inputs[r]);
#pragma GCC unroll 8
        for (int c = 0; c < kColumns; ++c) {
          sums.at[r][c] = Step::Apply(passing, held[c], sums.at[r][c]);
        }
      }
    }
  }
};

// The step of format f32.
template <typename AnyRegister>
struct StepF32 {
  using Register = AnyRegister;
  using Operand = typename Register::Floats;
  static constexpr int kParts = 1;
  template <int>
  static Operand LoadWeight(const std::byte* p) {
    return Register::Load(p);
  }
  template <int>
  static Operand LoadInput(const std::byte* p) {
    return Register::LoadFloat(p);
  }
  static Operand Apply(Operand x, Operand w, Operand sum) { return Register::Fma(x, w, sum); }
};

// The step of format bf16 without VDPBF16PS: first the odd, then the even elements of the pairs,
// widened. Under FTZ and DAZ a fused multiply-add flushes exactly what VDPBF16PS does.
template <typename AnyRegister>
struct StepBf16 {
  using Register = AnyRegister;
  using Operand = typename Register::Floats;
  static constexpr int kParts = 2;
  template <int kPart>
  static Operand LoadWeight(const std::byte* p) {
    return Widen<kPart>(Register::LoadInts(p));
  }
  template <int kPart>
  static Operand LoadInput(const std::byte* p) {
    return Widen<kPart>(Register::LoadInt(p));
  }
  static Operand Apply(Operand x, Operand w, Operand sum) { return Register::Fma(x, w, sum); }

 private:
  template <int kPart>
  static Operand Widen(typename Register::Ints pairs) {
    return kPart == 0 ? Register::HighHalves(pairs) : Register::LowHalvesUp(pairs);
  }
};

// Format int8 or int4, whose chains have one run. `Dot` is the arithmetic of four inputs:
//   Dot::Register, Dot::Weight
//   Weight Dot::Prepare(Ints bytes)                      four unsigned bytes of a panel a lane
//   Input Dot::LoadInput(const std::byte*)               4 bytes of a row, in every lane
//   Ints Dot::Apply(Input, Weight, Ints sum)             adds the lanes' four products to `sum`
//   Dot::kOffset    whether its weights have the panel's offset, or it takes that off itself
//   Dot::kRun       of how many steps its sums hold the products, in 16 bits a pair, before
//   Ints Dot::Fold(Ints sum)                             adds the pairs; 0: sums have 32 bits
template <typename Dot, bool kInt4>
struct IntegerTile {
  using Register = typename Dot::Register;
  using Ints = typename Register::Ints;
  static constexpr bool kNarrowFromCache = true;

  template <int kRows, int kPanels, bool kFetch>
  [[gnu::noinline]] static void Run(const ChainBlock& block, int64_t row, int64_t panel,
                                    NextPanels next) {
    constexpr int kColumns = TileSums<Register, kRows, kPanels>::kColumns;
    const int64_t group = block.format.group;
    const int64_t words = group / (kInt4 ? 8 : 4);  // of 64 bytes
    const int64_t row_bytes = group + 8, panel_bytes = kScalesBytes + words * 64;
    TileSums<Register, kRows, kPanels> sums(block, row, panel);
    const std::byte* rows[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) rows[r] = block.input + (row + r) * block.input_stride;
    const std::byte* panels[kPanels];
#pragma GCC unroll 8
    for (int p = 0; p < kPanels; ++p) panels[p] = block.panels[panel + p];
    const auto part = [&](int c) {  // of a panel, that column c reads
      constexpr int kRegisters = kColumns / kPanels, kBytes = Register::kLanes * 4;
      return panels[c / kRegisters] + c % kRegisters * kBytes;
    };

    for (int64_t s = 0; s < block.steps; ++s) {
      Ints dots[kRows][kColumns];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const Ints start =
            Dot::kOffset ? Register::LoadInt(rows[r] + group + 4) : Register::ZeroInts();
#pragma GCC unroll 8
        for (int c = 0; c < kColumns; ++c) dots[r][c] = start;
      }
      if constexpr (kFetch) {
#pragma GCC unroll 8
        for (int p = 0; p < kPanels; ++p) next.Fetch(panels[p], panel_bytes);
      }
      const auto multiply = [&](int64_t w, Ints(&to)[kRows][kColumns]) {
        const auto bytes = [&](int c) {
          return Register::LoadInts(part(c) + kScalesBytes + w * 64);
        };
        if constexpr (kInt4) {
          Multiply(to, rows, w * 8, [&](int c) { return Register::LowNibbles(bytes(c)); });
          Multiply(to, rows, w * 8 + 4, [&](int c) { return Register::HighNibbles(bytes(c)); });
        } else {
          Multiply(to, rows, w * 4, bytes);
        }
      };
      if constexpr (Dot::kRun == 0) {
        for (int64_t w = 0; w < words; ++w) multiply(w, dots);
      } else {
        for (int64_t w = 0; w < words; w += Dot::kRun) {
          Ints pairs[kRows][kColumns];
#pragma GCC unroll 8
          for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
            for (int c = 0; c < kColumns; ++c) pairs[r][c] = Register::ZeroInts();
          }
          for (int64_t v = w; v < w + Dot::kRun; ++v) multiply(v, pairs);
#pragma GCC unroll 8
          for (int r = 0; r < kRows; ++r) {
#pragma GCC unroll 8
            for (int c = 0; c < kColumns; ++c) {
              dots[r][c] = Register::Add(dots[r][c], Dot::Fold(pairs[r][c]));
            }
          }
          asm volatile("" : : "r"(&dots) : "memory");
        }
      }
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) {
        const auto scale = Register::Load(part(c));
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const auto scales = Register::Multiply(Register::LoadFloat(rows[r] + group), scale);
          sums.at[r][c] = Register::Fma(Register::FloatsOf(dots[r][c]), scales, sums.at[r][c]);
        }
      }
      // Where dots and sums are too many, the sums stay in memory and the registers belong to the
      // dots.
      if constexpr (kRows < 4 || kRows * kColumns > Register::kMostDotsBesideSums) {
        asm volatile("" : : "r"(&sums) : "memory");
      }
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) panels[p] += panel_bytes;
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) rows[r] += row_bytes;
    }
    sums.Store();
  }

 private:
  // Adds the products of the inputs at an offset of each row and `bytes` of each column.
  template <int kRows, int kColumns, typename Bytes>
  [[gnu::always_inline]] static void Multiply(Ints (&dots)[kRows][kColumns],
                                              const std::byte* const (&rows)[kRows], int64_t offset,
                                              Bytes bytes) {
    if constexpr (kRows <= kColumns || Register::kCount > 16) {
      typename Dot::Input held[kRows];
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) held[r] = Dot::LoadInput(rows[r] + offset);
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) {
        const typename Dot::Weight passing = Dot::Prepare(bytes(c));
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) dots[r][c] = Dot::Apply(held[r], passing, dots[r][c]);
      }
    } else {
      typename Dot::Weight held[kColumns];
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) held[c] = Dot::Prepare(bytes(c));
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        const typename Dot::Input passing = Dot::LoadInput(rows[r] + offset);
#pragma GCC unroll 8
        for (int c = 0; c < kColumns; ++c) {
          dots[r][c] = Dot::Apply(passing, held[c], dots[r][c]);
        }
      }
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
  if constexpr (kWide > 1) {
    if (p < end_panel) {
      RunRowsWide<Tile, kRows, (kWide + 1) / 2, kFetch>(block, row, p, end_panel, next);
    }
  }
}

template <typename Tile, int kRows>
void RunRows(const ChainBlock& block, int64_t row, int64_t first_panel, int64_t end_panel,
             NextPanels next) {
  if constexpr (Tile::kNarrowFromCache && kRows >= 4) {
    constexpr int kNarrow = Tile::Register::kNarrowPanels;
    if (block.num_rows > kMostRowsFromMemory) {
      if (next.ahead != 0) {
        RunRowsWide<Tile, kRows, kNarrow, true>(block, row, first_panel, end_panel, next);
      } else {
        RunRowsWide<Tile, kRows, kNarrow, false>(block, row, first_panel, end_panel, next);
      }
      return;
    }
  }
  constexpr int kWide = Tile::Register::kWidePanels[kRows - 1];
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

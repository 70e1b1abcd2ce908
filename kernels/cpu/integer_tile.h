// The register tile of the chains of formats int8 and int4 (kernels/cpu/tile_sums.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/chain.h"
#include "kernels/cpu/tile_sums.h"

namespace conclave::kernels::cpu {

// Format int8 or int4, whose chains have one run. `Dot` is the arithmetic of four inputs:
//   Dot::Register, Dot::Weight
//   Weight Dot::Prepare(Ints bytes)                      four unsigned bytes of a panel a lane
//   Input Dot::LoadInput(const std::byte*)               4 bytes of a row, in every lane
//   Ints Dot::Apply(Input, Weight, Ints sum)             adds the lanes' four products to `sum`
//   Dot::kOffset    whether its weights have the panel's offset, or it takes that off itself
//   Dot::kRun       of how many steps its sums hold the products, in 16 bits a pair, before
//   Ints Dot::Fold(Ints sum)                             adds the pairs; 0: sums have 32 bits
// `kZeros`: of int4, a group's scale has its zero point in the lowest four bits.
template <typename Dot, bool kInt4, bool kZeros = false>
struct IntegerTile {
  using Register = typename Dot::Register;
  using Ints = typename Register::Ints;
  static constexpr bool kNarrowFromCache = true;
  static constexpr bool kWidensRows = false;

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
      Start(dots, rows, group, part);
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
          ForgetLoads<Register>();
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
        const auto scale = Scale(part(c));
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) {
          const auto scales = Register::Multiply(Register::LoadFloat(rows[r] + group), scale);
          sums.at[r][c] = Register::Fma(Register::FloatsOf(dots[r][c]), scales, sums.at[r][c]);
        }
      }
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p) panels[p] += panel_bytes;
      // Where dots and sums are too many, the sums stay in memory and the registers belong to the
      // dots.
      if constexpr (kRows < 4 || kRows * kColumns > Register::kMostDotsBesideSums) {
        asm volatile("" : : "r"(&sums) : "memory");
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) rows[r] += row_bytes;
    }
    sums.Store();
  }

 private:
  static auto Scale(const std::byte* scales) {
    if constexpr (!kZeros) return Register::Load(scales);
    return Register::WithoutZeroPoints(Register::LoadInts(scales));
  }

  // What the offset or zero point of the weights adds to each sum, negated.
  template <int kRows, int kColumns, typename Part>
  [[gnu::always_inline]] static void Start(Ints (&dots)[kRows][kColumns],
                                           const std::byte* const (&rows)[kRows], int64_t group,
                                           Part part) {
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      if constexpr (!Dot::kOffset) {
#pragma GCC unroll 8
        for (int c = 0; c < kColumns; ++c) dots[r][c] = Register::ZeroInts();
        continue;
      }
      int32_t start;
      __builtin_memcpy(&start, rows[r] + group + 4, sizeof(start));
      if (kInt4 && !kZeros) start *= 8;
      const Ints starts = Register::FillInts(start);
#pragma GCC unroll 8
      for (int c = 0; c < kColumns; ++c) {
        if constexpr (kZeros) {  // below 2^15 both: a product of words
          dots[r][c] =
              Register::MultiplyWords(Register::ZeroPoints(Register::LoadInts(part(c))), starts);
        } else {
          dots[r][c] = starts;
        }
      }
    }
  }

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

}  // namespace conclave::kernels::cpu

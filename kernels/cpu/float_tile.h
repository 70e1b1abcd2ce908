// The register tile of the chains of formats f32 and bf16, and their steps
// (kernels/cpu/tile_sums.h).
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/cpu/chain.h"
#include "kernels/cpu/tile_sums.h"

namespace conclave::kernels::cpu {

// Formats f32 and bf16. `Step` is the arithmetic of one step, which has kParts parts:
//   Step::Register, Step::Operand
//   Step::kRowBytes  of a step of a row
//   Operand Step::LoadWeight<part>(const std::byte*)     a register's bytes of a panel
//   Operand Step::LoadInput<part>(const std::byte*)      of a row, in every lane
//   Floats Step::Apply(Operand input, Operand weight, Floats sum)
//   Step::Widened    if there is one, the step that many rows are widened for
template <typename AnyStep>
struct FloatTile {
  using Step = AnyStep;
  using Register = typename Step::Register;
  static constexpr bool kNarrowFromCache = false;
  static constexpr bool kWidensRows = requires { typename Step::Widened; };

  template <int kRows, int kPanels, bool kFetch>
  [[gnu::noinline]] static void Run(const ChainBlock& block, int64_t row, int64_t panel,
                                    NextPanels next) {
    constexpr int64_t kRowBytes = Step::kRowBytes, kPanelBytes = 64;  // of a step
    Sums<kRows, kPanels> sums(block, row, panel);
    const std::byte* rows[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) rows[r] = block.input + (row + r) * block.input_stride;

    const int64_t steps = block.steps;
    for (int64_t run = 0; run < block.num_runs; ++run) {
      const std::byte* panels[kPanels];
#pragma GCC unroll 8
      for (int p = 0; p < kPanels; ++p)
        panels[p] = block.panels[run * block.num_panels + panel + p];
      for (int64_t s = 0; s < steps; ++s) {
        const std::byte* inputs[kRows];
#pragma GCC unroll 8
        for (int r = 0; r < kRows; ++r) inputs[r] = rows[r] + s * kRowBytes;
        const std::byte* weights[kPanels];
#pragma GCC unroll 8
        for (int p = 0; p < kPanels; ++p) weights[p] = panels[p] + s * kPanelBytes;
        if constexpr (kFetch) {
#pragma GCC unroll 8
          for (int p = 0; p < kPanels; ++p) next.Fetch(weights[p], kPanelBytes);
        }
        AddPart<0>(inputs, weights, sums);
        if constexpr (Step::kParts == 2) {
          ForgetLoads<Register>();
          AddPart<1>(inputs, weights, sums);
        }
      }
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) rows[r] += steps * kRowBytes;
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
  static constexpr int64_t kRowBytes = kStepRowBytes;
  static constexpr int kParts = 1;
  template <int>
  static Operand LoadWeight(const std::byte* p) {
    return Register::Load(p);
  }
  template <int>
  static Operand LoadInput(const std::byte* p) {
    return Register::LoadFloat(p);
  }
  static Operand Apply(Operand x, Operand w, Operand sum) {
    return Register::AddProduct(x, w, sum);
  }
};

// The step of format bf16 where registers are few: first the odd, then the even elements of the
// pairs, widened. Under FTZ and DAZ a fused multiply-add flushes exactly what VDPBF16PS does.
template <typename AnyRegister>
struct StepBf16 {
  using Register = AnyRegister;
  using Operand = typename Register::Floats;
  static constexpr int64_t kRowBytes = kStepRowBytes;
  static constexpr int kParts = 2;
  template <int kPart>
  static Operand LoadWeight(const std::byte* p) {
    return Widen<kPart>(Register::LoadInts(p));
  }
  template <int kPart>
  static Operand LoadInput(const std::byte* p) {
    return Widen<kPart>(Register::LoadInt(p));
  }
  static Operand Apply(Operand x, Operand w, Operand sum) {
    return Register::AddProduct(x, w, sum);
  }

 private:
  template <int kPart>
  static Operand Widen(typename Register::Ints pairs) {
    return kPart == 0 ? Register::HighHalves(pairs) : Register::LowHalvesUp(pairs);
  }
};

// The same of rows that are widened already: of each pair the odd element, then the even one, as
// floats.
template <typename AnyRegister>
struct StepWidenedBf16 : StepBf16<AnyRegister> {
  using Operand = typename AnyRegister::Floats;
  static constexpr int64_t kRowBytes = 8;
  template <int kPart>
  static Operand LoadInput(const std::byte* p) {
    return AnyRegister::LoadFloat(p + 4 * kPart);
  }
  static void WidenRow(const std::byte* pairs, int64_t steps, std::byte* widened) {
    for (int64_t s = 0; s < steps; ++s) {
      uint32_t pair;
      __builtin_memcpy(&pair, pairs + s * kStepRowBytes, sizeof(pair));
      const uint64_t both = (pair & 0xffff0000u) | uint64_t{pair} << 48;
      __builtin_memcpy(widened + s * kRowBytes, &both, sizeof(both));
    }
  }
};

}  // namespace conclave::kernels::cpu

// What the register tiles of float_tile.h and integer_tile.h share. Included only by files compiled
// for an instruction set, with types of their anonymous namespaces, so that no function of one set
// is taken for that of another.
//
// `Register` is one vector register of an instruction set: kernels/cpu/register_avx512.h or
// register_avx2.h. A panel's 16 outputs are in one or two of them.
#pragma once

#include <cstddef>
#include <cstdint>

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

// Where registers are few: what was loaded before is loaded again where it is used after this,
// instead of being held in a register for it.
template <typename Register>
[[gnu::always_inline]] inline void ForgetLoads() {
  if constexpr (Register::kCount <= 16) asm volatile("" ::: "memory");
}

// What a tile of rows fetches of the next panels while it multiplies: every `parts`-th line, from
// line `part` on.
struct NextPanels {
  int64_t ahead = 0;  // bytes from a panel to the next one; 0: none
  int64_t part = 0, parts = 1;
  // Where a tile has few panels, those of the next tile are the next ones, and these after the last
  // tile's. Null: they are as far ahead for all tiles.
  const std::byte* after = nullptr;

  // Of the `bytes` that follow this address.
  [[gnu::always_inline]] void Fetch(const std::byte* panel, int64_t bytes) const {
    constexpr int64_t kLineBytes = 64;
    for (int64_t at = part * kLineBytes; at < bytes; at += parts * kLineBytes) {
      __builtin_prefetch(panel + ahead + at, 0, 2);  // into the second level
    }
  }
};

}  // namespace conclave::kernels::cpu

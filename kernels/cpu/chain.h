// The inner loop of matmul and attention: chains of multiply-adds (docs/numerics.md, "Matmul") for
// a block of rows and panels, a lane per output. The CPU level and the format choose the function
// once; all of one format give the same bits.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/context.h"
#include "kernels/panel.h"

namespace conclave::kernels::cpu {

// Bytes of a step of an input row in the formats f32 and bf16.
inline constexpr int64_t kStepRowBytes = 4;

struct ChainBlock {
  WeightFormat format;               // of the panels; it fixes what the rows are
  const std::byte* input = nullptr;  // [num_rows][num_runs * steps], see kernels/cpu/rounded_rows.h
  int64_t input_stride = 0;          // bytes from row to row
  int64_t num_rows = 0;
  int64_t steps = 0;                         // of a run
  const std::byte* const* panels = nullptr;  // [num_runs][num_panels], each of `steps` steps
  int64_t num_panels = 0;
  int64_t num_runs = 1;  // a chain goes through the runs one after the other: blocks of the cache
  float* output = nullptr;    // [num_rows][num_outputs]; panel p gives columns 16 p ...
  int64_t output_stride = 0;  // elements
  int64_t num_outputs =
      0;  // columns that exist: at most 16 * num_panels, more than 16 * (num_panels - 1)
  bool resume = false;  // the chains go on from `output` instead of +0
  // Bytes from each panel to the one that will be asked for next, which many rows of integers fetch
  // meanwhile: reading and multiplying then overlap. 0: nothing is fetched. Need not lie in any
  // matrix.
  int64_t next_panels = 0;
};

using ChainFunction = void (*)(const ChainBlock& block);

// Precondition: `level` is above kReference and supported.
ChainFunction ChainFor(CpuLevel level, WeightFormat format);

// Runs `chain` over a block of any size: in groups of panels and, where many rows share them, in
// runs of steps that keep the group in the second-level cache. Never changes a bit: a chain that is
// resumed goes on where it was.
void RunChain(ChainFunction chain, const ChainBlock& block);

// The functions, each in the file of its instruction set.
void ChainF32Avx2(const ChainBlock& block);
void ChainBf16Avx2(const ChainBlock& block);          // VDPBF16PS by fused multiply-adds
void ChainIntegersAvx2(const ChainBlock& block);      // VPDPBUSD by products of pairs
void ChainIntegersAvx2Vnni(const ChainBlock& block);  // VPDPBUSD
void ChainF32Avx512(const ChainBlock& block);
void ChainBf16Avx512(const ChainBlock& block);          // VDPBF16PS by fused multiply-adds
void ChainBf16Avx512Bf16(const ChainBlock& block);      // VDPBF16PS
void ChainIntegersAvx512(const ChainBlock& block);      // VPDPBUSD by products of words
void ChainIntegersAvx512Vnni(const ChainBlock& block);  // VPDPBUSD

// Rows in a register tile, and panels in a group: of AVX-512 tiles of 6 x 4 or 3 x 8 accumulators
// leave room for the operands in 32 registers, and cover the latency of the multiply-add several
// times over; of AVX2 tiles of 6 x 1, a panel taking two of 16.
inline constexpr int64_t kTileRows = 6;
inline constexpr int64_t kTilePanels = 8;

}  // namespace conclave::kernels::cpu

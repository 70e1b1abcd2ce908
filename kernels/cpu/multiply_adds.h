// A loop of independent multiply-adds. Included only by files compiled for an instruction set, with
// types of their anonymous namespaces.
#pragma once

#include <cstdint>

namespace conclave::kernels::cpu {

// `Instruction::Apply(sum, a, b)` does kOperations on registers of type Instruction::Vector, of
// which kSums are as many as the largest register tile has: enough to cover any latency.
template <typename Instruction>
int64_t RunMultiplyAdds(int64_t rounds) {
  using Vector = typename Instruction::Vector;
  // Small bf16 and f32 numbers, and bytes.
  const Vector a = Instruction::All(0x3c003c00), b = Instruction::All(0x3c013c01);
  Vector sums[Instruction::kSums];
#pragma GCC unroll 24
  for (Vector& sum : sums) sum = a;
  for (int64_t i = 0; i < rounds; ++i) {
#pragma GCC unroll 24
    for (Vector& sum : sums) Instruction::Apply(sum, a, b);
  }
  return rounds * Instruction::kSums * Instruction::kOperations;
}

}  // namespace conclave::kernels::cpu

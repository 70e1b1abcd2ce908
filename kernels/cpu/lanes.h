// The f32 functions and roundings of docs/numerics.md on 16 lanes, and loops over rows by 16.
//
// What works on lanes is written once, as templates of `Floats`, the 16 floats of an instruction
// set: one register of AVX-512 (lanes_avx512.h) or two of AVX2 (lanes_avx2.h). Those types have
// internal linkage, and so has all that is made with them: the linker never lends the code of one
// set to another.
#pragma once

#include <cstdint>

#include "kernels/functions.h"

namespace conclave::kernels::cpu {

inline constexpr int64_t kLanes = 16;

// Says that all lanes of a vector exist, where else a mask says which do.
struct AllLanes {};

// The lanes [0, count) of a vector, a bit each; all of them from 16 on.
[[gnu::always_inline]] constexpr uint32_t FirstLanes(int64_t count) {
  return count >= kLanes ? 0xffff : (uint32_t{1} << count) - 1;
}

// Calls body(i, lanes) for the vectors at i = 0, 16, ... of `count` elements; `lanes` are all, but
// for the last vector of an odd count.
template <typename Floats, typename Body>
[[gnu::always_inline]] inline void ForEachVector(int64_t count, Body body) {
  int64_t i = 0;
  for (; i + kLanes <= count; i += kLanes) body(i, AllLanes{});
  if (i < count) body(i, Floats::Mask::FromBits(FirstLanes(count - i)));
}

// `a` in the lanes that exist, `b` in the others.
template <typename Floats>
Floats Within(AllLanes, Floats a, Floats) {
  return a;
}
template <typename Floats>
Floats Within(typename Floats::Mask lanes, Floats a, Floats b) {
  return Select(lanes, a, b);
}

// exp, as docs/numerics.md ("Functions") has it.
template <typename Floats>
Floats Exp(Floats x) {
  const Floats magic = Floats::Of(kExpMagic);
  const Floats t = Fma(x, Floats::Of(kExpLog2E), magic);
  const Floats n = t - magic;
  Floats r = Fma(n, Floats::Of(-kExpLn2High), x);
  r = Fma(n, Floats::Of(-kExpLn2Low), r);
  Floats p = Floats::Of(kExpC[6]);
#pragma GCC unroll 6
  for (int i = 5; i >= 0; --i) p = Fma(p, r, Floats::Of(kExpC[i]));
  Floats result = (p.bits() + t.bits().template ShiftLeft<23>()).floats();
  result = Select(Less(x, Floats::Of(kExpMin)), Floats::Zero(), result);
  result = Select(Less(Floats::Of(kExpMax), x), Floats::Of(__builtin_inff()), result);
  return Select(IsNan(x), x, result);
}

template <typename Floats>
Floats Negate(Floats x) {
  return (x.bits() ^ Floats::Ints::Of(INT32_MIN)).floats();
}

template <typename Floats>
Floats Sigmoid(Floats x) {
  const Floats one = Floats::Of(1.0f);
  return one / (one + Exp(Negate(x)));
}

template <typename Floats>
Floats Silu(Floats x) {
  return x / (Floats::Of(1.0f) + Exp(Negate(x)));
}

// bf16(x) in the low half of every lane. (VCVTNEPS2BF16 flushes subnormals, which the page does
// not.)
template <typename Floats>
typename Floats::Ints ToBf16Lanes(Floats x) {
  using Ints = typename Floats::Ints;
  const Ints u = x.bits();
  const Ints upper = u.template ShiftRight<16>();
  const Ints odd = upper & Ints::Of(1);
  const Ints rounded = (u + Ints::Of(0x7fff) + odd).template ShiftRight<16>();
  return Select(IsNan(x), upper | Ints::Of(0x0040), rounded);
}

}  // namespace conclave::kernels::cpu

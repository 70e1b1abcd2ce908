// FTZ and DAZ, under which a fused multiply-add is the `ffma` of docs/numerics.md. Internal
// linkage: each instruction set has its own.
#pragma once

#include <immintrin.h>

namespace conclave::kernels::cpu {
namespace {

// Turns FTZ and DAZ on for this thread while it lives.
class FlushSubnormals {
 public:
  FlushSubnormals() : saved_(_mm_getcsr()) { _mm_setcsr(saved_ | 0x8040u); }
  ~FlushSubnormals() { _mm_setcsr(saved_); }
  FlushSubnormals(const FlushSubnormals&) = delete;
  FlushSubnormals& operator=(const FlushSubnormals&) = delete;

 private:
  unsigned saved_;
};

}  // namespace
}  // namespace conclave::kernels::cpu

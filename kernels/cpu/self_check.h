// Whether this processor's VDPBF16PS gives the bits that docs/numerics.md ("Matmul") demands.
#pragma once

namespace conclave::kernels::cpu {

// Compares it with the scalar chain over ordinary, tiny and signed operands, around the flushing
// threshold included. Precondition: the processor has AVX-512 BF16. Takes less than a millisecond.
bool DotProductIsAsSpecified();

}  // namespace conclave::kernels::cpu

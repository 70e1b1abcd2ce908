// What works on lanes, on those of AVX2.
#include "kernels/cpu/lanes_avx2.h"
#include "kernels/cpu/level_functions.h"
#include "kernels/cpu/logit_passes_lanes.h"
#include "kernels/cpu/quantize_lanes.h"
#include "kernels/cpu/rows_lanes.h"
#include "kernels/cpu/softmax_lanes.h"

namespace conclave::kernels::cpu {

constinit const RowFunctions kRowsAvx2 = Rows<Floats256>::kFunctions;
constinit const SoftmaxFunctions kSoftmaxAvx2 = Softmax<Floats256>::kFunctions;
constinit const QuantizeFunctions kQuantizeAvx2 = Quantize<Floats256>::kFunctions;
constinit const LogitFunctions kLogitsAvx2 = LogitPasses<Floats256>::kFunctions;

}  // namespace conclave::kernels::cpu

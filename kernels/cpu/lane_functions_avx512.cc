// What works on lanes, on those of AVX-512.
#include "kernels/cpu/lanes_avx512.h"
#include "kernels/cpu/level_functions.h"
#include "kernels/cpu/logit_passes_lanes.h"
#include "kernels/cpu/quantize_lanes.h"
#include "kernels/cpu/rows_lanes.h"
#include "kernels/cpu/softmax_lanes.h"

namespace conclave::kernels::cpu {

constinit const RowFunctions kRowsAvx512 = Rows<Floats512>::kFunctions;
constinit const SoftmaxFunctions kSoftmaxAvx512 = Softmax<Floats512>::kFunctions;
constinit const QuantizeFunctions kQuantizeAvx512 = Quantize<Floats512>::kFunctions;
constinit const LogitFunctions kLogitsAvx512 = LogitPasses<Floats512>::kFunctions;

}  // namespace conclave::kernels::cpu

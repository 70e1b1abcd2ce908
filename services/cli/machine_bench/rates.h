// What the processor and the memory do in a second at most, measured by threads that do nothing
// else.
#pragma once

#include <map>

#include "absl/status/statusor.h"
#include "kernels/context.h"
#include "kernels/matrix.h"

namespace conclave::cli {

// Bytes read from memory, by all threads together. RESOURCE_EXHAUSTED: there is none to read.
absl::StatusOr<double> ReadRate(kernels::CpuLevel level, int threads, double seconds);

// Operations of the multiply-adds that chains of a type take (kernels/peaks.h), a multiply-add
// being two; 0 if the level has no such instruction.
double MultiplyAddRate(kernels::CpuLevel level, kernels::WeightType type, int threads,
                       double seconds);

// What bounds kernels and models here.
struct MachineRates {
  double read = 0;  // bytes a second
  // A second, by weights' type; 0 where the level has no instruction of its own for it.
  std::map<kernels::WeightType, double> operations;
};

// Each rate measured for so long.
absl::StatusOr<MachineRates> MeasureRates(kernels::CpuLevel level, int threads, double seconds);

}  // namespace conclave::cli

// The vector forms of kernels/logit_passes.h.
#pragma once

#include <cstdint>

#include "kernels/context.h"

namespace conclave::kernels::cpu {

struct LogitFunctions {
  void (*copy)(const float* logits, int64_t count, float* output);
  int64_t (*index_of_largest)(const float* logits, int64_t count);
  float (*largest)(const float* logits, int64_t count);
  // `ids` and `kept` have room for `count`; returns how many were written.
  int64_t (*collect_from)(const float* logits, int64_t count, float threshold, int32_t* ids,
                          float* kept);
  void (*weigh)(const float* logits, int64_t count, float largest, float temperature,
                uint64_t* weights);
  uint64_t (*sum_of_weights)(const float* logits, int64_t count, float largest, float temperature);
};

// Precondition: `level` is above kReference and supported.
const LogitFunctions& LogitsFor(CpuLevel level);

}  // namespace conclave::kernels::cpu

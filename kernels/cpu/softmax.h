// The softmax of one query row over one segment of context, and its running merge
// (docs/numerics.md, "Attention", steps 2 to 5), on 16 lanes. Scores, probabilities and values of a
// row are 64-byte aligned and padded to whole vectors.
#pragma once

#include <cstddef>
#include <cstdint>

#include "kernels/context.h"
#include "kernels/matrix.h"

namespace conclave::kernels::cpu {

// The visible positions [begin, end) of a segment, not empty, and the positions [first, last) whose
// probabilities are written, both multiples of 16: zero where not visible.
struct SegmentRange {
  int64_t begin = 0;
  int64_t end = 0;
  int64_t first = 0;
  int64_t last = 0;
};

struct SegmentSum {
  float max = 0.0f;
  float sum = 0.0f;
};

// The running state of a row: O has `columns` values, a multiple of 16.
struct RunningRow {
  float max;
  float sum;
  float* values;
};

struct SoftmaxFunctions {
  // Scales the scores [kSegmentTokens] in place and writes the probabilities, f32 or bf16 by
  // `format`.
  SegmentSum (*segment)(WeightFormat format, const SegmentRange& range, float scale, float* scores,
                        std::byte* probabilities);

  // Step 5: `first` copies, else merges. Adds +0 to the segment's values before (step 4).
  void (*merge)(bool first, const SegmentSum& segment, const float* values, int64_t columns,
                RunningRow& row);

  // Merges the sink, if there is one, divides and writes the row's `count` results.
  void (*finish)(const float* sink, RunningRow& row, int64_t count, float* output);
};

// Precondition: `level` is above kReference and supported.
const SoftmaxFunctions& SoftmaxFor(CpuLevel level);

}  // namespace conclave::kernels::cpu

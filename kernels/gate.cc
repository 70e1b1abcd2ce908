#include "kernels/gate.h"

#include <algorithm>
#include <limits>

#include "kernels/cpu/rows.h"
#include "kernels/grain.h"
#include "kernels/ref/rows.h"

namespace conclave::kernels {
namespace {

constexpr float kMinusInfinity = -std::numeric_limits<float>::infinity();
constexpr float kTaken = std::numeric_limits<float>::quiet_NaN();  // no candidate any more

// What one token needs: num_experts of each, and num_groups.
struct GateScratch {
  float* scores;
  float* choices;
  float* group_scores;
};

float GroupScore(GroupScoring grouping, const float* choices, int64_t size) {
  float first = kMinusInfinity;
  float second = kMinusInfinity;
  for (int64_t i = 0; i < size; ++i) {
    second = std::max(second, std::min(first, choices[i]));
    first = std::max(first, choices[i]);
  }
  return grouping == GroupScoring::kMax || size == 1 ? first : first + second;
}

// Sets the choices of all but the top_groups best groups to -infinity.
void DropGroups(const cpu::RowFunctions& rows, const GateParameters& parameters,
                const GateScratch& scratch) {
  const int64_t size = parameters.num_experts / parameters.num_groups;
  for (int64_t g = 0; g < parameters.num_groups; ++g) {
    scratch.group_scores[g] = GroupScore(parameters.grouping, scratch.choices + g * size, size);
  }
  for (int64_t i = 0; i < parameters.top_groups; ++i) {
    scratch.group_scores[rows.index_of_max(scratch.group_scores, parameters.num_groups)] = kTaken;
  }
  for (int64_t g = 0; g < parameters.num_groups; ++g) {
    if (scratch.group_scores[g] != scratch.group_scores[g]) continue;
    std::fill_n(scratch.choices + g * size, size, kMinusInfinity);
  }
}

void GateToken(const cpu::RowFunctions& rows, const GateParameters& parameters, const float* logits,
               const GateScratch& scratch, int32_t* ids, float* weights) {
  const int64_t num_experts = parameters.num_experts;
  if (parameters.scoring == GateScoring::kSoftmax) {
    rows.softmax_scores(logits, num_experts, scratch.scores);
  } else {
    rows.sigmoid_scores(logits, num_experts, scratch.scores);
  }
  for (int64_t i = 0; i < num_experts; ++i) {
    float choice = scratch.scores[i];
    if (parameters.correction_bias != nullptr) choice = choice + parameters.correction_bias[i];
    scratch.choices[i] = choice == choice ? choice : kMinusInfinity;
  }
  if (parameters.grouping != GroupScoring::kNone) DropGroups(rows, parameters, scratch);
  float sum = 0.0f;
  for (int32_t j = 0; j < parameters.top_k; ++j) {
    const int64_t id = rows.index_of_max(scratch.choices, num_experts);
    scratch.choices[id] = kTaken;
    ids[j] = static_cast<int32_t>(id);
    weights[j] = scratch.scores[id];
    sum = sum + weights[j];
  }
  sum = sum + parameters.normalise_epsilon;
  for (int32_t j = 0; j < parameters.top_k; ++j) {
    if (parameters.normalise) weights[j] = weights[j] / sum;
    weights[j] = weights[j] * parameters.scale;
  }
}

}  // namespace

void Gate(const GateParameters& parameters, MatrixView<const float> logits, MatrixView<int32_t> ids,
          MatrixView<float> weights, Context& context) {
  if (context.level() == CpuLevel::kReference) {
    ref::Gate(parameters, logits, ids, weights);
    return;
  }
  const cpu::RowFunctions& rows = cpu::RowsFor(context.level());
  const int64_t num_experts = parameters.num_experts;
  const int64_t floats = 2 * num_experts + parameters.num_groups;
  const size_t bytes = static_cast<size_t>(floats * context.pool().num_threads()) * sizeof(float);
  float* all = reinterpret_cast<float*>(context.Scratch(ScratchSlot::kMisc, bytes));
  // Choosing reads all scores top_k times over.
  const int64_t grain = RowGrain(num_experts * (parameters.top_k + 8));
  context.pool().ParallelFor(logits.rows, grain, [&](int64_t begin, int64_t end, int thread) {
    float* own = all + floats * thread;
    const GateScratch scratch{own, own + num_experts, own + 2 * num_experts};
    for (int64_t t = begin; t < end; ++t) {
      GateToken(rows, parameters, logits.Row(t), scratch, ids.Row(t), weights.Row(t));
    }
  });
}

void CombineExperts(MatrixView<const float> rows, MatrixView<const float> weights,
                    MatrixView<float> accumulator, Context& context) {
  if (context.level() == CpuLevel::kReference) {
    ref::CombineExperts(rows, weights, accumulator);
    return;
  }
  const int64_t top_k = weights.cols;
  context.pool().ParallelFor(accumulator.rows, RowGrain(accumulator.cols * (top_k + 1)),
                             [&](int64_t begin, int64_t end, int) {
                               for (int64_t t = begin; t < end; ++t) {
                                 cpu::RowsFor(context.level())
                                     .combine(rows.Row(t * top_k), rows.stride, weights.Row(t),
                                              top_k, accumulator.cols, accumulator.Row(t));
                               }
                             });
}

}  // namespace conclave::kernels

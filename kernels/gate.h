// The router of a mixture-of-experts layer: from logits to the experts of each token and their
// weights.
//
// Called on the engine's step thread.
#pragma once

#include <cstdint>

#include "kernels/context.h"
#include "kernels/matrix.h"

namespace conclave::kernels {

enum class GateScoring : uint8_t { kSoftmax, kSigmoid };

// How a group of experts is scored when only some groups may be chosen.
enum class GroupScoring : uint8_t {
  kNone,       // no groups
  kMax,        // the best expert's score (DeepSeek-V2 "group_limited_greedy")
  kTopTwoSum,  // the sum of the two best choice scores (DeepSeek-V3 "noaux_tc")
};

struct GateParameters {
  int32_t num_experts = 0;
  int32_t top_k = 0;  // <= num_experts
  GateScoring scoring = GateScoring::kSoftmax;
  GroupScoring grouping = GroupScoring::kNone;
  int32_t num_groups = 1;  // divides num_experts
  int32_t top_groups = 1;
  bool normalise = false;          // divide the chosen weights by their sum + normalise_epsilon
  float normalise_epsilon = 0.0f;  // DeepSeek: 1e-20
  float scale = 1.0f;              // routed_scaling_factor
  // [num_experts], added to the score for choosing only; or null.
  const float* correction_bias = nullptr;
};

// logits [num_tokens, num_experts] f32. Writes, per token, top_k expert ids and weights in gate
// order: descending choice score, ties to the lower id. Dropped groups have the choice score -inf.
// ids, weights: [num_tokens, top_k].
void Gate(const GateParameters& parameters, MatrixView<const float> logits, MatrixView<int32_t> ids,
          MatrixView<float> weights, Context& context);

// accumulator[t] += sum over j of weights[t][j] * rows[t * top_k + j], one fused multiply-add per
// element and j, in gate order. rows: [num_tokens * top_k, hidden] f32 (widened from the class's
// row type).
void CombineExperts(MatrixView<const float> rows, MatrixView<const float> weights,
                    MatrixView<float> accumulator, Context& context);

}  // namespace conclave::kernels

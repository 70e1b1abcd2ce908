// Gated feed-forward networks: the routed experts, shared experts and dense layers.
//
// Called on a compute thread of an expert worker or of an engine. Stateless; a row's result depends
// on no other row.
#pragma once

#include <cstdint>
#include <span>

#include "kernels/context.h"
#include "kernels/matrix.h"

namespace conclave::kernels {

struct FfnWeights {
  PackedMatrix gate;  // [intermediate, hidden]
  PackedMatrix up;    // [intermediate, hidden]
  PackedMatrix down;  // [hidden, intermediate]
};

// output = down(silu(gate(x)) * up(x)) for every row, in f32; the product is computed in f32 and
// rounded only as down's input. input, output: [num_rows, hidden] f32.
void FeedForward(const FfnWeights& weights, MatrixView<const float> input, MatrixView<float> output,
                 Context& context);

// Rows of one step, sorted by expert: expert e owns rows [first_row[e], first_row[e + 1]).
struct ExpertBatch {
  std::span<const int32_t> first_row;  // [num_experts + 1]
  MatrixView<const float> input;       // [num_rows, hidden]
  MatrixView<float> output;  // [num_rows, hidden]; unweighted: the engine applies the gate's weight
};

// FeedForward of every expert on its own rows. An expert's weights are read once, however many rows
// use it. Preconditions: first_row.size() == experts.size() + 1; all gates and ups are of one type
// and group, all downs are, but some may have zero points and others not.
void ExpertFfn(std::span<const FfnWeights> experts, const ExpertBatch& batch, Context& context);

}  // namespace conclave::kernels

// The feed-forward part of a mixture-of-experts layer: gate, rows out to the experts, the shared
// expert meanwhile, and the combination in gate order.
//
// Built once by the forward pass and used for every MoE layer in turn, on the step thread.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string_view>

#include "kernels/context.h"
#include "kernels/gate.h"
#include "services/engine/dispatch/expert_dispatch.h"
#include "services/engine/layers/row_buffer.h"
#include "services/engine/layers/step_rows.h"
#include "shared/weights/engine_weights.h"

namespace conclave::engine {

struct ForwardObserver;

class MoeLayer {
 public:
  // Borrows all.
  MoeLayer(const weights::EngineWeights& weights, ExpertDispatch& dispatch,
           kernels::Context& context);

  struct Step {
    int32_t layer = 0;
    StepRows* rows = nullptr;      // rows that no expert could serve leave it (StepRows::Leave)
    std::string_view traceparent;  // of the step, or empty
    ForwardObserver* observer = nullptr;  // sees the routes; may be null
  };

  // output = the combined experts and the shared expert, [num_rows, hidden]; undefined for rows
  // whose sequence left. Returns the workers' compute time in microseconds.
  int64_t Run(const Step& step, kernels::MatrixView<const float> input,
              kernels::MatrixView<float> output);

 private:
  kernels::GateParameters GateOf(const weights::MoeLayerWeights& layer) const;
  // shared(input), scaled by its gate where there is one.
  kernels::MatrixView<const float> Shared(const weights::MoeLayerWeights& layer,
                                          kernels::MatrixView<const float> input);

  const weights::EngineWeights& weights_;
  ExpertDispatch& dispatch_;
  kernels::Context& context_;
  const kernels::RowType row_type_;

  RowBuffer<float> logits_;        // [num_rows, num_experts]
  RowBuffer<int32_t> ids_;         // [num_rows, top_k], gate order
  RowBuffer<float> gate_weights_;  // [num_rows, top_k]
  RowBuffer<std::byte> sent_;      // [num_rows, hidden] of the row type
  RowBuffer<std::byte> received_;  // [num_rows * top_k, hidden] of the row type
  RowBuffer<float> expert_rows_;   // [num_rows * top_k, hidden]
  RowBuffer<float> shared_;        // [num_rows, hidden]
  RowBuffer<float> shared_gate_;   // [num_rows, 1]
};

}  // namespace conclave::engine

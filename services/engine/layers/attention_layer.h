// The attention part of a layer: normalised rows in, o_proj's rows out, keys and values into the
// cache on the way.
//
// Built once by the forward pass and used for every layer in turn, on the step thread: what differs
// between layers is passed in, what is reused (tables, activations) is held.
#pragma once

#include <memory>

#include "kernels/attention.h"
#include "kernels/context.h"
#include "kernels/rope.h"
#include "services/engine/layers/step_rows.h"
#include "shared/weights/engine_weights.h"

namespace conclave::engine {

class AttentionLayer {
 public:
  virtual ~AttentionLayer() = default;

  // input, output: [rows.num_rows(), hidden] f32.
  virtual void Run(const weights::LayerWeights& weights, const kernels::KvLayer& kv,
                   const StepRows& rows, kernels::MatrixView<const float> input,
                   kernels::MatrixView<float> output) = 0;
};

// What the kernel needs to know of a model.
kernels::AttentionParameters AttentionParametersOf(const weights::ModelConfig& config,
                                                   const kernels::KvShape& shape);

// The family's kind of attention. Borrows the table and the context, which outlive the layer.
std::unique_ptr<AttentionLayer> MakeAttentionLayer(const weights::ModelConfig& config,
                                                   const kernels::KvShape& shape,
                                                   const kernels::RopeTable& rope,
                                                   kernels::Context& context);

}  // namespace conclave::engine

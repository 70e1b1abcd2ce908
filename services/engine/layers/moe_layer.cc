#include "services/engine/layers/moe_layer.h"

#include <algorithm>

#include "kernels/elementwise.h"
#include "kernels/ffn.h"
#include "kernels/matmul.h"
#include "services/engine/forward.h"

namespace conclave::engine {
namespace {

using kernels::MatrixView;

kernels::GateScoring ScoringOf(weights::Scoring scoring) {
  return scoring == weights::Scoring::kSigmoid ? kernels::GateScoring::kSigmoid
                                               : kernels::GateScoring::kSoftmax;
}

kernels::GroupScoring GroupingOf(weights::ExpertGroups groups) {
  switch (groups) {
    case weights::ExpertGroups::kMax:
      return kernels::GroupScoring::kMax;
    case weights::ExpertGroups::kTopTwoSum:
      return kernels::GroupScoring::kTopTwoSum;
    case weights::ExpertGroups::kNone:
      break;
  }
  return kernels::GroupScoring::kNone;
}

}  // namespace

MoeLayer::MoeLayer(const weights::EngineWeights& weights, ExpertDispatch& dispatch,
                   kernels::Context& context)
    : weights_(weights),
      dispatch_(dispatch),
      context_(context),
      row_type_(kernels::RowTypeOf(weights.numerics)) {}

kernels::GateParameters MoeLayer::GateOf(const weights::MoeLayerWeights& layer) const {
  const weights::MoeConfig& moe = weights_.config.moe;
  return {
      .num_experts = moe.num_experts,
      .top_k = moe.top_k,
      .scoring = ScoringOf(moe.scoring),
      .grouping = GroupingOf(moe.groups),
      .num_groups = moe.num_groups,
      .top_groups = moe.top_groups,
      .normalise = moe.normalise,
      .normalise_epsilon = static_cast<float>(moe.normalise_epsilon),
      .scale = static_cast<float>(moe.scale),
      .correction_bias = layer.correction_bias.empty() ? nullptr : layer.correction_bias.data()};
}

int64_t MoeLayer::Run(const Step& step, MatrixView<const float> input, MatrixView<float> output) {
  const weights::MoeLayerWeights& layer = *weights_.layers[step.layer].moe;
  const weights::MoeConfig& moe = weights_.config.moe;
  const int64_t num_rows = input.rows;
  const int64_t hidden = input.cols;
  const int64_t row_bytes = hidden * static_cast<int64_t>(kernels::RowTypeBytes(row_type_));

  const auto logits = logits_.Shape(num_rows, moe.num_experts);
  const auto ids = ids_.Shape(num_rows, moe.top_k);
  const auto gate_weights = gate_weights_.Shape(num_rows, moe.top_k);
  kernels::Matmul(layer.router, input, logits, context_);
  kernels::Gate(GateOf(layer), ReadOnly(logits), ids, gate_weights, context_);
  if (step.observer != nullptr)
    step.observer->OnRoutes(step.layer, ReadOnly(ids), ReadOnly(gate_weights));

  const auto sent = sent_.Shape(num_rows, row_bytes);
  const auto received = received_.Shape(num_rows * moe.top_k, row_bytes);
  kernels::RoundRows(row_type_, input, sent.data);
  dispatch_.Begin(
      {.layer = step.layer,
       .num_tokens = num_rows,
       .hidden = hidden,
       .top_k = moe.top_k,
       .row_type = row_type_,
       .rows = sent.data,
       .expert_ids = std::span<const int32_t>(ids.data, static_cast<size_t>(num_rows * moe.top_k)),
       .results = received.data,
       .origins = step.rows->origins(),
       .traceparent = step.traceparent});
  MatrixView<const float> shared;
  if (layer.shared.has_value()) shared = Shared(layer, input);
  const ExpertOutcome outcome = dispatch_.Finish();
  for (const FailedToken& failed : outcome.failed) step.rows->Leave(failed.token, failed.status);

  const auto expert_rows = expert_rows_.Shape(num_rows * moe.top_k, hidden);
  kernels::WidenRows(row_type_, received.data, expert_rows);
  for (int64_t row = 0; row < num_rows; ++row) std::fill_n(output.Row(row), hidden, 0.0f);
  kernels::CombineExperts(ReadOnly(expert_rows), ReadOnly(gate_weights), output, context_);
  if (layer.shared.has_value()) kernels::Add(ReadOnly(output), shared, output, context_);
  return outcome.expert_us;
}

MatrixView<const float> MoeLayer::Shared(const weights::MoeLayerWeights& layer,
                                         MatrixView<const float> input) {
  const auto shared = shared_.Shape(input.rows, input.cols);
  kernels::FeedForward(*layer.shared, input, shared, context_);
  if (!layer.shared_gate.empty()) {
    const auto scores = shared_gate_.Shape(input.rows, 1);
    kernels::Matmul(layer.shared_gate, input, scores, context_);
    kernels::ScaleBySigmoid(std::span<const float>(scores.data, static_cast<size_t>(scores.rows)),
                            shared, context_);
  }
  return ReadOnly(shared);
}

}  // namespace conclave::engine

#include "services/engine/forward.h"

#include <algorithm>
#include <utility>

#include "kernels/elementwise.h"
#include "kernels/ffn.h"
#include "kernels/matmul.h"
#include "kernels/norm.h"
#include "kernels/rope.h"
#include "services/engine/layers/attention_layer.h"
#include "services/engine/layers/moe_layer.h"
#include "services/engine/layers/rope_setup.h"
#include "services/engine/layers/row_buffer.h"
#include "services/engine/layers/step_rows.h"
#include "shared/base/check.h"

namespace conclave::engine {

using kernels::MatrixView;

class Forward::State {
 public:
  State(std::shared_ptr<const weights::EngineWeights> weights, KvStorage storage,
        int64_t context_tokens, ExpertDispatch& dispatch, kernels::Context& context)
      : weights_(std::move(weights)),
        storage_(storage),
        kv_shape_(KvShapeOf(weights_->config, weights_->numerics)),
        context_(context),
        rope_(MakeRopeTableOf(weights_->config, context_tokens)),
        attention_(MakeAttentionLayer(weights_->config, kv_shape_, rope_, context)),
        moe_(*weights_, dispatch, context) {
    CONCLAVE_CHECK(storage.block_stride_bytes >=
                   KvBlockBytesOf(weights_->config, weights_->numerics));
  }

  void Run(std::span<const ForwardSequence> sequences, ForwardOutput& output,
           ForwardObserver* observer);

 private:
  void Embed(std::span<const ForwardSequence> sequences);
  // x = x + attention(norm(x)).
  void RunAttention(int32_t layer);
  // x = x + experts or dense network (norm(x)); sequences that no expert could serve are gone
  // afterwards.
  void RunFeedForward(int32_t layer, std::string_view traceparent, ForwardObserver* observer,
                      int64_t* expert_us);
  void RunHead(ForwardOutput& output, ForwardObserver* observer);

  const weights::ModelConfig& config() const { return weights_->config; }
  MatrixView<float> Residual() { return residual_.Shape(rows_.num_rows(), config().hidden); }
  MatrixView<const float> Normalised(const std::vector<float>& norm);
  kernels::KvLayer KvOf(int32_t layer) const;

  const std::shared_ptr<const weights::EngineWeights> weights_;
  const KvStorage storage_;
  const kernels::KvShape kv_shape_;
  kernels::Context& context_;
  const kernels::RopeTable rope_;
  const std::unique_ptr<AttentionLayer> attention_;
  MoeLayer moe_;

  StepRows rows_;
  std::vector<int32_t> ids_;
  RowBuffer<float> residual_;    // [num_rows, hidden]: x of docs/numerics.md, "A layer"
  RowBuffer<float> normalised_;  // [num_rows, hidden]
  RowBuffer<float> branch_;      // [num_rows, hidden]: what is added to x
  RowBuffer<float> head_rows_;   // [num_logits, hidden]
};

void Forward::State::Run(std::span<const ForwardSequence> sequences, ForwardOutput& output,
                         ForwardObserver* observer) {
  rows_.Reset(sequences);
  output.expert_us = 0;
  std::string_view traceparent;
  for (const ForwardSequence& sequence : sequences) {
    if (traceparent.empty()) traceparent = sequence.traceparent;
  }

  Embed(sequences);
  if (observer != nullptr) observer->OnHidden("embed", -1, ReadOnly(Residual()));
  for (int32_t layer = 0; layer < config().num_layers && rows_.num_rows() > 0; ++layer) {
    RunAttention(layer);
    // No later layer reads a row without logits.
    if (layer + 1 == config().num_layers && observer == nullptr)
      rows_.KeepLogitRows(config().hidden, residual_);
    if (rows_.num_rows() == 0) break;
    RunFeedForward(layer, traceparent, observer, &output.expert_us);
    if (observer != nullptr) observer->OnHidden("layer", layer, ReadOnly(Residual()));
  }
  RunHead(output, observer);
}

void Forward::State::Embed(std::span<const ForwardSequence> sequences) {
  ids_.clear();
  for (const ForwardSequence& sequence : sequences) {
    CONCLAVE_CHECK(sequence.first_position + static_cast<int64_t>(sequence.ids.size()) <=
                   rope_.num_positions);
    for (const int32_t id : sequence.ids) CONCLAVE_CHECK(id >= 0 && id < config().vocab_size);
    ids_.insert(ids_.end(), sequence.ids.begin(), sequence.ids.end());
  }
  weights_->Embed(ids_, Residual());
}

MatrixView<const float> Forward::State::Normalised(const std::vector<float>& norm) {
  const auto normalised = normalised_.Shape(rows_.num_rows(), config().hidden);
  kernels::RmsNorm(ReadOnly(Residual()), norm.data(), static_cast<float>(config().norm_epsilon),
                   normalised, context_);
  return ReadOnly(normalised);
}

kernels::KvLayer Forward::State::KvOf(int32_t layer) const {
  return {.base = storage_.base + layer * static_cast<int64_t>(kernels::KvBlockBytes(kv_shape_)),
          .block_stride_bytes = storage_.block_stride_bytes};
}

void Forward::State::RunAttention(int32_t layer) {
  const weights::LayerWeights& weights = weights_->layers[layer];
  const auto input = Normalised(weights.attention_norm);
  const auto branch = branch_.Shape(rows_.num_rows(), config().hidden);
  attention_->Run(weights, KvOf(layer), rows_, input, branch);
  kernels::Add(ReadOnly(Residual()), ReadOnly(branch), Residual(), context_);
}

void Forward::State::RunFeedForward(int32_t layer, std::string_view traceparent,
                                    ForwardObserver* observer, int64_t* expert_us) {
  const weights::LayerWeights& weights = weights_->layers[layer];
  const auto input = Normalised(weights.ffn_norm);
  const auto branch = branch_.Shape(rows_.num_rows(), config().hidden);
  if (weights.moe.has_value()) {
    *expert_us +=
        moe_.Run({.layer = layer, .rows = &rows_, .traceparent = traceparent, .observer = observer},
                 input, branch);
  } else {
    kernels::FeedForward(*weights.dense, input, branch, context_);
  }
  kernels::Add(ReadOnly(Residual()), ReadOnly(branch), Residual(), context_);
  if (weights.moe.has_value()) rows_.Compact(config().hidden, residual_);
}

void Forward::State::RunHead(ForwardOutput& output, ForwardObserver* observer) {
  int64_t num_logits = 0;
  output.status.clear();
  for (int64_t s = 0; s < rows_.num_members(); ++s) {
    num_logits += rows_.num_logits(s);
    output.status.push_back(rows_.status(s));
  }
  output.logits.resize(static_cast<size_t>(num_logits * config().vocab_size));
  if (num_logits == 0) return;

  const int64_t hidden = config().hidden;
  const auto head_rows = head_rows_.Shape(num_logits, hidden);
  int64_t next = 0;
  for (int64_t s = 0; s < rows_.num_members(); ++s) {
    const int64_t count = rows_.num_logits(s);
    if (rows_.status(s).ok()) {
      const float* from = residual_.data() + rows_.FirstLogitRow(s) * hidden;
      std::copy(from, from + count * hidden, head_rows.Row(next));
    } else {
      std::fill_n(head_rows.Row(next), count * hidden, 0.0f);
    }
    next += count;
  }
  kernels::RmsNorm(ReadOnly(head_rows), weights_->final_norm.data(),
                   static_cast<float>(config().norm_epsilon), head_rows, context_);
  if (observer != nullptr) observer->OnHidden("final_norm", -1, ReadOnly(head_rows));
  kernels::Matmul(weights_->lm_head, ReadOnly(head_rows),
                  kernels::DenseView(output.logits.data(), num_logits, config().vocab_size),
                  context_);
}

Forward::Forward(std::shared_ptr<const weights::EngineWeights> weights, KvStorage storage,
                 int64_t context_tokens, ExpertDispatch* dispatch, kernels::Context* context)
    : state_(std::make_unique<State>(std::move(weights), storage, context_tokens, *dispatch,
                                     *context)) {}

Forward::~Forward() = default;

void Forward::Run(std::span<const ForwardSequence> sequences, ForwardOutput* output,
                  ForwardObserver* observer) {
  state_->Run(sequences, *output, observer);
}

}  // namespace conclave::engine

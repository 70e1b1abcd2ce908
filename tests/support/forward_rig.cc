#include "tests/support/forward_rig.h"

#include <algorithm>
#include <cstdlib>
#include <iostream>
#include <random>
#include <utility>

#include "services/engine/dispatch/local_dispatch.h"
#include "shared/base/clock.h"
#include "shared/base/status_macros.h"

namespace conclave::testing {

absl::StatusOr<std::shared_ptr<const LoadedModel>> LoadModel(const std::filesystem::path& dir,
                                                             kernels::NumericsClass numerics) {
  auto model = std::make_shared<LoadedModel>();
  ASSIGN_OR_RETURN(std::shared_ptr<const weights::Checkpoint> checkpoint,
                   weights::Checkpoint::Open(dir, {}));
  ASSIGN_OR_RETURN(model->engine, weights::LoadEngineWeights(*checkpoint, numerics, nullptr));
  model->experts = std::make_shared<experts::ExpertSet>(checkpoint, numerics);
  const weights::ModelConfig& config = checkpoint->config();
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    if (!config.IsMoe(layer)) continue;
    for (int32_t expert = 0; expert < config.moe.num_experts; ++expert) {
      RETURN_IF_ERROR(model->experts->Load({layer, expert}));
    }
  }
  model->checkpoint = std::move(checkpoint);
  return model;
}

DispatchFactory LocalExperts() {
  return [](const LoadedModel& model, kernels::Context& context) {
    static const SteadyClock clock;
    return std::make_unique<engine::LocalDispatch>(model.experts.get(), &clock, &context);
  };
}

ForwardRig::ForwardRig(std::shared_ptr<const LoadedModel> model, const RigOptions& options)
    : model_(std::move(model)),
      context_(options.level, options.num_threads),
      dispatch_(options.dispatch(*model_, context_)) {
  const int64_t block_bytes = engine::KvBlockBytesOf(model_->config(), model_->numerics());
  for (int64_t block = 0; block < options.num_blocks; ++block)
    free_blocks_.push_back(static_cast<int32_t>(block));
  std::mt19937_64 random(options.shuffle_seed);
  std::shuffle(free_blocks_.begin(), free_blocks_.end(), random);
  const auto pool = pool_.Shape(options.num_blocks, block_bytes);
  forward_ = std::make_unique<engine::Forward>(
      model_->engine, engine::KvStorage{.base = pool.data, .block_stride_bytes = block_bytes},
      options.context_tokens, dispatch_.get(), &context_);
}

const engine::ForwardOutput& ForwardRig::Step(const std::vector<Part>& parts,
                                              engine::ForwardObserver* observer) {
  for (const Part& part : parts) {
    if (part.sequence >= static_cast<int>(sequences_.size()))
      sequences_.resize(static_cast<size_t>(part.sequence) + 1);
    Sequence& sequence = sequences_[part.sequence];
    const int64_t tokens = sequence.num_tokens + static_cast<int64_t>(part.ids.size());
    while (static_cast<int64_t>(sequence.blocks.size()) * kernels::kBlockTokens < tokens) {
      if (free_blocks_.empty()) {
        std::cerr << "the rig's block pool is too small\n";
        std::abort();
      }
      sequence.blocks.push_back(free_blocks_.back());
      free_blocks_.pop_back();
    }
  }
  std::vector<engine::ForwardSequence> inputs;
  for (const Part& part : parts) {
    inputs.push_back({.ids = part.ids,
                      .first_position = sequences_[part.sequence].num_tokens,
                      .blocks = sequences_[part.sequence].blocks,
                      .num_logits = part.num_logits,
                      .origin = {},
                      .traceparent = {}});
  }
  forward_->Run(inputs, &output_, observer);
  for (size_t i = 0; i < parts.size(); ++i) {
    if (output_.status[i].ok())
      sequences_[parts[i].sequence].num_tokens += static_cast<int64_t>(parts[i].ids.size());
  }
  return output_;
}

void ForwardRig::Forget(int sequence) {
  if (sequence >= static_cast<int>(sequences_.size())) return;
  Sequence& forgotten = sequences_[sequence];
  // To the front: freed blocks are taken again last, so that sequences change places in the pool.
  free_blocks_.insert(free_blocks_.begin(), forgotten.blocks.begin(), forgotten.blocks.end());
  forgotten = {};
}

int64_t ForwardRig::num_tokens(int sequence) const {
  return sequence < static_cast<int>(sequences_.size()) ? sequences_[sequence].num_tokens : 0;
}

std::vector<float> ForwardRig::LogitsOf(std::span<const int32_t> ids, int64_t chunk,
                                        engine::ForwardObserver* observer) {
  const int sequence = static_cast<int>(sequences_.size());
  const size_t length = chunk == 0 ? ids.size() : static_cast<size_t>(chunk);
  std::vector<float> logits;
  for (size_t first = 0; first < ids.size(); first += length) {
    const auto part = ids.subspan(first, std::min(length, ids.size() - first));
    const engine::ForwardOutput& output =
        Step({{.sequence = sequence, .ids = part, .num_logits = static_cast<int32_t>(part.size())}},
             observer);
    logits.insert(logits.end(), output.logits.begin(), output.logits.end());
  }
  Forget(sequence);
  sequences_.pop_back();
  return logits;
}

std::vector<int32_t> ForwardRig::GreedyOf(std::span<const int32_t> prompt, int num_tokens) {
  const int sequence = static_cast<int>(sequences_.size());
  std::vector<int32_t> chosen;
  std::span<const int32_t> next = prompt;
  while (static_cast<int>(chosen.size()) < num_tokens) {
    const engine::ForwardOutput& output =
        Step({{.sequence = sequence, .ids = next, .num_logits = 1}});
    const auto best = std::max_element(output.logits.begin(), output.logits.end());
    chosen.push_back(static_cast<int32_t>(best - output.logits.begin()));
    next = std::span<const int32_t>(chosen).last(1);
  }
  Forget(sequence);
  sequences_.pop_back();
  return chosen;
}

}  // namespace conclave::testing

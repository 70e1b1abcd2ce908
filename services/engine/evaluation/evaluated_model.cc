#include "services/engine/evaluation/evaluated_model.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "services/engine/dispatch/local_dispatch.h"
#include "shared/base/byte_size.h"
#include "shared/base/limits.h"
#include "shared/base/status_macros.h"
#include "shared/weights/expert_weights.h"

namespace conclave::engine {
namespace {

// Of a step: enough to use the weights well, and few logits beside them.
constexpr int64_t kStepTokens = 128;
// Continued at once. Their KV blocks are there from the start, but take memory as they are used.
constexpr size_t kMostAnswers = 16;

}  // namespace

absl::StatusOr<std::unique_ptr<EvaluatedModel>> EvaluatedModel::Load(
    std::shared_ptr<const weights::StoredModel> model, const weights::WeightFormats& formats,
    int64_t window_tokens, kernels::Context* context, const LoadProgress& progress) {
  const weights::ModelConfig& config = model->config();
  const auto engine_bytes = static_cast<int64_t>(weights::EngineBytes(config, formats));
  const auto expert_bytes = static_cast<int64_t>(weights::ExpertBytes(config, formats));
  const auto moe_layers = std::ranges::count(config.ffn, weights::FfnKind::kMoe);
  const int64_t total = engine_bytes + moe_layers * config.moe.num_experts * expert_bytes;
  const int64_t available = ReadMemoryLimit().available_bytes;
  if (model->packed() == nullptr && total > available) {
    return absl::ResourceExhaustedError(
        absl::StrCat("the weights take ", FormatBytes(total), " in ", formats.Label(), " and ",
                     FormatBytes(available), " of memory are free; use a larger machine"));
  }
  const auto tell = [&](int64_t done) {
    if (progress != nullptr) progress(done, total);
  };

  std::unique_ptr<EvaluatedModel> loaded(new EvaluatedModel);
  ASSIGN_OR_RETURN(
      loaded->weights_,
      weights::LoadEngineWeights(
          *model, formats, [&](int64_t done, int64_t) { tell(done); }, &context->pool()));
  loaded->experts_ = std::make_unique<experts::ExpertSet>(model, formats);
  int64_t done = engine_bytes;
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    if (!config.IsMoe(layer)) continue;
    for (int32_t expert = 0; expert < config.moe.num_experts; ++expert) {
      RETURN_IF_ERROR(loaded->experts_->Load({layer, expert}, &context->pool()));
      tell(done += expert_bytes);
    }
  }
  loaded->blocks_each_ =
      static_cast<size_t>((window_tokens + kernels::kBlockTokens - 1) / kernels::kBlockTokens);
  const auto blocks = static_cast<int32_t>(loaded->blocks_each_ * kMostAnswers);
  ASSIGN_OR_RETURN(loaded->memory_, MapKvMemory(blocks, KvBlockBytesOf(config, formats.numerics)));
  loaded->blocks_.resize(static_cast<size_t>(blocks));
  std::iota(loaded->blocks_.begin(), loaded->blocks_.end(), 0);
  loaded->dispatch_ =
      std::make_unique<LocalDispatch>(loaded->experts_.get(), &loaded->clock_, context);
  loaded->forward_ =
      std::make_unique<Forward>(loaded->weights_,
                                KvStorage{.base = loaded->memory_->base(),
                                          .block_stride_bytes = loaded->memory_->block_bytes()},
                                window_tokens, loaded->dispatch_.get(), context);
  return loaded;
}

absl::Status EvaluatedModel::Run(std::span<const int32_t> window, const TakeLogits& take) {
  ForwardOutput output;
  for (int64_t first = 0; first < static_cast<int64_t>(window.size()); first += kStepTokens) {
    const auto ids = window.subspan(
        static_cast<size_t>(first),
        std::min(static_cast<size_t>(kStepTokens), window.size() - static_cast<size_t>(first)));
    const ForwardSequence sequence = {.ids = ids,
                                      .first_position = first,
                                      .blocks = std::span(blocks_).first(blocks_each_),
                                      .num_logits = static_cast<int32_t>(ids.size()),
                                      .origin = {},
                                      .traceparent = {}};
    forward_->Run({&sequence, 1}, &output);
    RETURN_IF_ERROR(output.status.front());
    RETURN_IF_ERROR(take(first, output.logits));
  }
  return absl::OkStatus();
}

// A prompt that is being continued.
struct EvaluatedModel::Answer {
  std::span<const int32_t> next;  // that are not in the KV cache yet
  int64_t position = 0;           // of the first of them
  std::span<const int32_t> blocks;
  std::vector<int32_t> ids;  // so far
};

// All of a prompt but its last token, in steps of bounded size: a long one together with others
// would take memory that is not the model's.
absl::Status EvaluatedModel::Prefill(Answer& answer) {
  ForwardOutput output;
  while (answer.next.size() > 1) {
    const size_t count = std::min(static_cast<size_t>(kStepTokens), answer.next.size() - 1);
    const ForwardSequence sequence = {.ids = answer.next.first(count),
                                      .first_position = answer.position,
                                      .blocks = answer.blocks,
                                      .num_logits = 0,
                                      .origin = {},
                                      .traceparent = {}};
    forward_->Run({&sequence, 1}, &output);
    RETURN_IF_ERROR(output.status.front());
    answer.position += static_cast<int64_t>(count);
    answer.next = answer.next.subspan(count);
  }
  return absl::OkStatus();
}

// One token more for each.
absl::Status EvaluatedModel::Step(std::span<Answer*> running) {
  std::vector<ForwardSequence> sequences;
  for (const Answer* answer : running) {
    sequences.push_back({.ids = answer->next,
                         .first_position = answer->position,
                         .blocks = answer->blocks,
                         .num_logits = 1,
                         .origin = {},
                         .traceparent = {}});
  }
  ForwardOutput output;
  forward_->Run(sequences, &output);
  const auto vocab = static_cast<std::ptrdiff_t>(vocab_size());
  auto row = output.logits.begin();
  for (size_t i = 0; i < running.size(); ++i, row += vocab) {
    RETURN_IF_ERROR(output.status[i]);
    Answer& answer = *running[i];
    answer.position += static_cast<int64_t>(answer.next.size());
    answer.ids.push_back(static_cast<int32_t>(std::max_element(row, row + vocab) - row));
    answer.next = std::span(answer.ids).last(1);
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<std::vector<int32_t>>> EvaluatedModel::Continue(
    std::span<const std::vector<int32_t>> prompts, std::span<const int32_t> stop_ids,
    int64_t max_tokens, const std::function<void(int64_t done)>& progress) {
  std::vector<std::vector<int32_t>> ids;
  while (!prompts.empty()) {
    std::vector<Answer> answers(std::min(prompts.size(), kMostAnswers));
    std::vector<Answer*> running;
    for (size_t i = 0; i < answers.size(); ++i) {
      answers[i].next = prompts[i];
      answers[i].blocks = std::span(blocks_).subspan(i * blocks_each_, blocks_each_);
      RETURN_IF_ERROR(Prefill(answers[i]));
      running.push_back(&answers[i]);
    }
    while (!running.empty()) {
      RETURN_IF_ERROR(Step(running));
      std::erase_if(running, [&](Answer* answer) {
        const bool stopped = std::ranges::find(stop_ids, answer->ids.back()) != stop_ids.end();
        if (stopped) answer->ids.pop_back();
        return stopped || static_cast<int64_t>(answer->ids.size()) >= max_tokens;
      });
      progress(static_cast<int64_t>(ids.size() + answers.size() - running.size()));
    }
    for (Answer& answer : answers) ids.push_back(std::move(answer.ids));
    prompts = prompts.subspan(answers.size());
  }
  return ids;
}

}  // namespace conclave::engine

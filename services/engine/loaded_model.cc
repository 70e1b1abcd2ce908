#include "services/engine/loaded_model.h"

#include <algorithm>
#include <chrono>
#include <string>
#include <utility>

#include "kernels/peaks.h"
#include "services/engine/dispatch/local_dispatch.h"
#include "services/engine/kv_memory.h"
#include "services/engine/metered_dispatch.h"
#include "shared/base/byte_size.h"
#include "shared/base/limits.h"
#include "shared/base/log.h"
#include "shared/base/status_macros.h"
#include "shared/model/token_cost.h"

namespace conclave::engine {
namespace {

// Of one core at its peak, in the multiply-adds that weights of the type take, each of which is two
// operations. Measured within some milliseconds.
double OperationsASecond(kernels::CpuLevel level, kernels::WeightType type) {
  using kernels::WeightType;
  constexpr int64_t kRounds = 20'000;
  constexpr double kWithoutInstruction = 20e9;
  const auto start = std::chrono::steady_clock::now();
  const auto done = static_cast<double>(kernels::MultiplyAdds(level, type, kRounds));
  const std::chrono::duration<double> elapsed = std::chrono::steady_clock::now() - start;
  return done > 0 ? done / elapsed.count() : kWithoutInstruction;
}

}  // namespace

absl::StatusOr<model::KvPlan> PlanCache(const weights::ModelConfig& config,
                                        kernels::NumericsClass numerics,
                                        const EngineOptions& options, int64_t available_bytes) {
  return model::PlanKv({.model_context = config.max_positions,
                        .block_bytes = KvBlockBytesOf(config, numerics),
                        .context = options.context,
                        .kv_bytes = options.kv_memory.bytes,
                        .share = options.kv_memory_share,
                        .max_batch = options.max_batch,
                        .available_bytes = available_bytes});
}

absl::StatusOr<std::unique_ptr<LoadedModel>> LoadedModel::Load(const Parts& parts) {
  std::unique_ptr<LoadedModel> loaded(new LoadedModel(parts));
  const int threads = parts.options->threads > 0 ? parts.options->threads : ReadCpuLimit().cores;
  loaded->context_ = std::make_unique<kernels::Context>(parts.level, threads);
  ASSIGN_OR_RETURN(loaded->weights_, weights::LoadEngineWeights(
                                         *parts.model->stored, parts.model->formats,
                                         [&parts](int64_t done, int64_t total) {
                                           parts.progress("loading", done, total);
                                         },
                                         &loaded->context_->pool()));
  loaded->dispatch_ = parts.remote;
  if (parts.remote == nullptr) RETURN_IF_ERROR(loaded->LoadExperts());
  loaded->TellErrors();
  RETURN_IF_ERROR(loaded->MakeCache());
  loaded->StartLoop();
  return loaded;
}

absl::Status LoadedModel::LoadExperts() {
  const model::ServedModel& model = *parts_.model;
  experts_ = std::make_unique<experts::ExpertSet>(model.stored, model.formats);
  const int64_t total =
      static_cast<int64_t>(model.identity.moe_layers.size()) * model.identity.num_experts;
  int64_t done = 0;
  const auto at_once = static_cast<int32_t>(experts::NumAtOnce(model.identity.expert_bytes));
  for (const int32_t layer : model.identity.moe_layers) {
    for (int32_t first = 0; first < model.identity.num_experts; first += at_once) {
      if (*parts_.stop) return absl::CancelledError("the engine was stopped while it loaded");
      std::vector<weights::ExpertId> ids;
      const int32_t end = std::min(first + at_once, model.identity.num_experts);
      for (int32_t expert = first; expert < end; ++expert) ids.push_back({layer, expert});
      RETURN_IF_ERROR(experts_->LoadAll(ids, &context_->pool()));
      done += static_cast<int64_t>(ids.size());
      parts_.progress("loading experts", done, total);
    }
  }
  local_dispatch_ = std::make_unique<LocalDispatch>(experts_.get(), parts_.clock, context_.get());
  metered_dispatch_ = std::make_unique<MeteredDispatch>(
      local_dispatch_.get(), model.identity.num_experts, parts_.registry);
  dispatch_ = metered_dispatch_.get();
  return absl::OkStatus();
}

// Of what was made here or when the file was packed; one of version 2 does not say.
void LoadedModel::TellErrors() const {
  weights::KindErrors errors = weights_->errors;
  if (experts_ != nullptr) errors.Of(weights::TensorKind::kExperts).Add(experts_->error());
  for (const weights::TensorKind kind : weights::kTensorKinds) {
    if (errors.Of(kind).weights == 0) continue;
    parts_.registry
        ->GetGauge("conclave_quantization_error_ratio",
                   {{"kind", std::string(weights::TensorKindName(kind))}})
        .Set(errors.Of(kind).Relative());
  }
}

absl::Status LoadedModel::MakeCache() {
  const weights::ModelConfig& config = weights_->config;
  int64_t available_bytes = ReadMemoryLimit().available_bytes;
  if (weights_->mapped != nullptr) {
    // The system counts a file's pages as free, but these are needed at every step.
    const size_t experts = experts_ == nullptr ? 0 : experts_->bytes();
    available_bytes -= static_cast<int64_t>(weights_->bytes + experts);
    available_bytes = std::max<int64_t>(available_bytes, 0);
  }
  const int64_t block_bytes = KvBlockBytesOf(config, weights_->numerics);
  ASSIGN_OR_RETURN(const model::KvPlan plan,
                   PlanCache(config, weights_->numerics, *parts_.options, available_bytes));
  context_tokens_ = plan.context_tokens;
  ASSIGN_OR_RETURN(std::unique_ptr<KvMemory> memory, MapKvMemory(plan.num_blocks, block_bytes));
  cache_ = std::make_unique<KvCache>(std::move(memory), parts_.options->prefix_cache);
  LogInfo("memory", {{"weights", FormatBytes(static_cast<int64_t>(weights_->bytes))},
                     {"context", plan.context_tokens},
                     {"kv_memory", FormatBytes(plan.num_blocks * block_bytes)},
                     {"kv_tokens", cache_->capacity_tokens()},
                     {"decided_by", plan.reason},
                     {"free", FormatBytes(available_bytes)},
                     {"threads", num_threads()},
                     {"cpu_level", kernels::CpuLevelName(parts_.level)}});
  return absl::OkStatus();
}

void LoadedModel::StartLoop() {
  const EngineOptions& options = *parts_.options;
  forward_ = std::make_unique<Forward>(weights_, cache_->storage(), context_tokens_, dispatch_,
                                       context_.get());
  Stepper::Options stepper;
  stepper.scheduler.step_budget_ms = options.step_budget_ms;
  stepper.scheduler.max_batch = options.max_batch;
  stepper.scheduler.max_waiting = options.max_waiting;
  stepper.scheduler.context_tokens = context_tokens_;
  stepper.scheduler.missing_expert_wait = std::chrono::milliseconds(options.missing_expert_wait_ms);
  stepper.scheduler.fingerprint = parts_.model->identity.fingerprint;
  stepper.scheduler.prefill_budget_ms = options.prefill_budget_ms;
  const weights::ModelConfig& config = weights_->config;
  const model::TokenCost cost = model::TokenCostOf(config);
  const auto moe_layers = std::ranges::count(config.ffn, weights::FfnKind::kMoe);
  const double expert_bytes =
      static_cast<double>(weights::ExpertBytes(config, parts_.model->formats));
  stepper.costs = GuessCosts(
      {.dense_bytes = static_cast<double>(weights_->bytes - weights_->embedding.size()),
       .expert_bytes = expert_bytes * static_cast<double>(moe_layers * config.moe.num_experts),
       .expert_share = static_cast<double>(config.moe.top_k) / config.moe.num_experts,
       .active_parameters = static_cast<double>(cost.parameters),
       .attention_width = static_cast<double>(cost.attention_width)},
      num_threads() * OperationsASecond(parts_.level, parts_.model->formats.experts.type));
  stepper.vocab_size = weights_->config.vocab_size;
  stepper_ = std::make_unique<Stepper>(stepper, Stepper::Parts{.forward = forward_.get(),
                                                               .dispatch = dispatch_,
                                                               .cache = cache_.get(),
                                                               .context = context_.get(),
                                                               .sink = parts_.sink,
                                                               .metrics = parts_.metrics,
                                                               .clock = parts_.clock});
  loop_ = std::make_unique<StepLoop>(
      StepLoop::Options{.max_queued_starts = options.max_waiting + options.max_batch,
                        .on_turn = [sink = parts_.sink] { sink->OnTurn(); }},
      stepper_.get(), cache_.get(), parts_.clock);
}

}  // namespace conclave::engine

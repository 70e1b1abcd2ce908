#include "services/engine/dispatch/local_dispatch.h"

#include <chrono>

#include "absl/strings/str_cat.h"
#include "shared/base/check.h"

namespace conclave::engine {
namespace {

absl::Status NotHeld(int32_t layer, int32_t expert) {
  return absl::UnavailableError(
      absl::StrCat("layer ", layer, " expert ", expert, " is not held by this engine"));
}

}  // namespace

LocalDispatch::LocalDispatch(const experts::ExpertSet* experts, const Clock* clock,
                             kernels::Context* context)
    : experts_set_(*experts), clock_(*clock), context_(*context) {}

void LocalDispatch::Begin(const ExpertCall& call) {
  CONCLAVE_CHECK(call_.rows == nullptr);  // the call before has been finished
  call_ = call;
}

ExpertOutcome LocalDispatch::Finish() {
  const TimePoint start = clock_.Now();
  ExpertOutcome outcome;
  FindFailed(outcome);
  SortByExpert();
  const absl::Status status = experts::ComputeExpertRows(experts_set_,
                                                         {.layer = call_.layer,
                                                          .type = call_.row_type,
                                                          .hidden = call_.hidden,
                                                          .experts = experts_,
                                                          .first_row = first_row_,
                                                          .inputs = inputs_,
                                                          .outputs = outputs_},
                                                         scratch_, context_);
  if (!status.ok()) {  // an expert was released since FindFailed: nothing was computed
    for (int64_t token = 0; token < call_.num_tokens; ++token) {
      if (!token_failed_[token])
        outcome.failed.push_back({token, absl::UnavailableError(status.message())});
    }
  }
  outcome.expert_us =
      std::chrono::duration_cast<std::chrono::microseconds>(clock_.Now() - start).count();
  call_ = {};
  return outcome;
}

void LocalDispatch::FindFailed(ExpertOutcome& outcome) {
  token_failed_.assign(static_cast<size_t>(call_.num_tokens), 0);
  rows_of_.assign(static_cast<size_t>(experts_set_.config().moe.num_experts), 0);
  for (const int32_t expert : call_.expert_ids) ++rows_of_[expert];
  bool all_held = true;
  for (int32_t expert = 0; expert < static_cast<int32_t>(rows_of_.size()); ++expert) {
    if (rows_of_[expert] > 0 && !experts_set_.Holds({call_.layer, expert})) {
      rows_of_[expert] = -1;
      all_held = false;
    }
  }
  if (all_held) return;
  for (int64_t token = 0; token < call_.num_tokens; ++token) {
    for (const int32_t expert : call_.expert_ids.subspan(token * call_.top_k, call_.top_k)) {
      if (rows_of_[expert] >= 0 || token_failed_[token]) continue;
      token_failed_[token] = 1;
      outcome.failed.push_back({token, NotHeld(call_.layer, expert)});
    }
  }
}

void LocalDispatch::SortByExpert() {
  rows_of_.assign(rows_of_.size(), 0);
  const int64_t top_k = call_.top_k;
  for (int64_t token = 0; token < call_.num_tokens; ++token) {
    if (token_failed_[token]) continue;
    for (int64_t j = 0; j < top_k; ++j) ++rows_of_[call_.expert_ids[token * top_k + j]];
  }
  experts_.clear();
  first_row_.assign(1, 0);
  for (int32_t expert = 0; expert < static_cast<int32_t>(rows_of_.size()); ++expert) {
    if (rows_of_[expert] == 0) continue;
    const int32_t first = first_row_.back();
    experts_.push_back(expert);
    first_row_.push_back(first + rows_of_[expert]);
    rows_of_[expert] = first;
  }
  inputs_.resize(static_cast<size_t>(first_row_.back()));
  outputs_.resize(inputs_.size());
  const int64_t row_bytes =
      call_.hidden * static_cast<int64_t>(kernels::RowTypeBytes(call_.row_type));
  for (int64_t token = 0; token < call_.num_tokens; ++token) {
    if (token_failed_[token]) continue;
    for (int64_t j = 0; j < top_k; ++j) {
      const int32_t row = rows_of_[call_.expert_ids[token * top_k + j]]++;
      inputs_[row] = call_.rows + token * row_bytes;
      outputs_[row] = call_.results + (token * top_k + j) * row_bytes;
    }
  }
}

std::vector<std::pair<int32_t, int32_t>> LocalDispatch::Missing() const {
  const weights::ModelConfig& config = experts_set_.config();
  std::vector<std::pair<int32_t, int32_t>> missing;
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    if (!config.IsMoe(layer)) continue;
    for (int32_t expert = 0; expert < config.moe.num_experts; ++expert) {
      if (!experts_set_.Holds({layer, expert})) missing.emplace_back(layer, expert);
    }
  }
  return missing;
}

}  // namespace conclave::engine

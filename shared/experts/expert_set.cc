#include "shared/experts/expert_set.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"

namespace conclave::experts {

size_t NumAtOnce(int64_t expert_bytes) {
  constexpr int64_t kBytes = int64_t{128} << 20;
  return static_cast<size_t>(
      std::clamp<int64_t>(kBytes / std::max<int64_t>(expert_bytes, 1), 1, 64));
}

ExpertSet::ExpertSet(std::shared_ptr<const weights::StoredModel> model,
                     const weights::WeightFormats& formats)
    : model_(std::move(model)), formats_(formats) {}

absl::Status ExpertSet::Load(weights::ExpertId id, kernels::ThreadPool* pool) {
  if (Holds(id)) return absl::OkStatus();
  ASSIGN_OR_RETURN(auto loaded, weights::LoadExpert(*model_, formats_, id, pool));
  MutexLock lock(mutex_);
  held_.emplace(
      id, std::move(
              loaded));  // a concurrent Load of the same expert may have come first: keep that one
  return absl::OkStatus();
}

absl::Status ExpertSet::LoadAll(std::span<const weights::ExpertId> ids, kernels::ThreadPool* pool) {
  if (pool == nullptr || model_->packed() == nullptr) {
    absl::Status first;
    for (const weights::ExpertId id : ids) first.Update(Load(id, pool));
    return first;
  }
  // An expert has three matrices, which never occupy two threads evenly.
  std::vector<absl::Status> found(ids.size());
  pool->ParallelFor(static_cast<int64_t>(ids.size()), 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      found[static_cast<size_t>(i)] = Load(ids[static_cast<size_t>(i)]);
    }
  });
  for (const absl::Status& each : found) RETURN_IF_ERROR(each);
  return absl::OkStatus();
}

void ExpertSet::Release(weights::ExpertId id) {
  std::shared_ptr<const weights::ExpertWeights> last;  // freed after the lock
  MutexLock lock(mutex_);
  const auto it = held_.find(id);
  if (it == held_.end()) return;
  last = std::move(it->second);
  held_.erase(it);
}

std::shared_ptr<const weights::ExpertWeights> ExpertSet::Find(weights::ExpertId id) const {
  MutexLock lock(mutex_);
  const auto it = held_.find(id);
  return it == held_.end() ? nullptr : it->second;
}

bool ExpertSet::Holds(weights::ExpertId id) const {
  MutexLock lock(mutex_);
  return held_.contains(id);
}

std::vector<weights::ExpertId> ExpertSet::Held() const {
  MutexLock lock(mutex_);
  std::vector<weights::ExpertId> ids;
  ids.reserve(held_.size());
  for (const auto& [id, expert] : held_) ids.push_back(id);
  return ids;
}

size_t ExpertSet::bytes() const {
  MutexLock lock(mutex_);
  size_t bytes = 0;
  for (const auto& [id, expert] : held_) bytes += expert->bytes;
  return bytes;
}

weights::SquaredError ExpertSet::error() const {
  MutexLock lock(mutex_);
  weights::SquaredError sum;
  for (const auto& [id, expert] : held_) sum.Add(expert->error);
  return sum;
}

absl::Status ComputeExpertRows(const ExpertSet& experts, const ExpertRows& rows,
                               ExpertScratch& scratch, kernels::Context& context) {
  scratch.held.clear();
  scratch.ffn.clear();
  for (const int32_t expert : rows.experts) {
    auto held = experts.Find({rows.layer, expert});
    if (held == nullptr) {
      scratch.held.clear();
      return absl::NotFoundError(
          absl::StrCat("layer ", rows.layer, " expert ", expert, " is not held here"));
    }
    scratch.ffn.push_back(held->ffn);
    scratch.held.push_back(std::move(held));
  }

  const int64_t num_rows = static_cast<int64_t>(rows.inputs.size());
  const size_t elements = static_cast<size_t>(num_rows * rows.hidden);
  if (scratch.input.size() < elements) {
    scratch.input.resize(elements);
    scratch.output.resize(elements);
  }
  const auto input = kernels::DenseView(scratch.input.data(), num_rows, rows.hidden);
  const auto output = kernels::DenseView(scratch.output.data(), num_rows, rows.hidden);
  for (int64_t row = 0; row < num_rows; ++row) {
    kernels::WidenRows(rows.type, rows.inputs[row],
                       kernels::DenseView(input.Row(row), 1, rows.hidden));
  }
  kernels::ExpertFfn(scratch.ffn,
                     {.first_row = rows.first_row,
                      .input = kernels::DenseView<const float>(input.data, num_rows, rows.hidden),
                      .output = output},
                     context);
  for (int64_t row = 0; row < num_rows; ++row) {
    kernels::RoundRows(rows.type, kernels::DenseView<const float>(output.Row(row), 1, rows.hidden),
                       rows.outputs[row]);
  }
  scratch.held.clear();
  return absl::OkStatus();
}

}  // namespace conclave::experts

#include "services/engine/dispatch/expert_routes.h"

#include <algorithm>

namespace conclave::engine {

ExpertRoutes::ExpertRoutes(
    const placement::ModelIdentity& model, const placement::ModelTopology* topology,
    const std::function<std::shared_ptr<WorkerLink>(const placement::TopologyWorker&)>& make_link,
    const ExpertRoutes* former)
    : moe_layers_(model.moe_layers),
      num_experts_(model.num_experts),
      index_of_layer_(model.num_layers, -1),
      workers_(model.moe_layers.size() * model.num_experts) {
  for (size_t i = 0; i < moe_layers_.size(); ++i)
    index_of_layer_[moe_layers_[i]] = static_cast<int32_t>(i);
  if (topology != nullptr) {
    for (const placement::TopologyWorker& worker : topology->workers)
      Add(worker, make_link(worker));
  }
  if (former != nullptr) KeepFormer(*former, topology);
}

void ExpertRoutes::Add(const placement::TopologyWorker& worker,
                       const std::shared_ptr<WorkerLink>& link) {
  const int32_t index = AddLink(link);
  for (const placement::ExpertKey& key : worker.serve) {
    if (key.layer < 0 || key.layer >= static_cast<int32_t>(index_of_layer_.size()) ||
        key.expert < 0 || key.expert >= num_experts_) {
      continue;
    }
    if (const int32_t layer = index_of_layer_[key.layer]; layer >= 0) {
      workers_[layer * num_experts_ + key.expert].push_back(index);
    }
  }
}

void ExpertRoutes::KeepFormer(const ExpertRoutes& former,
                              const placement::ModelTopology* topology) {
  const auto known = [topology](const WorkerLink& link) {
    const auto* worker = topology != nullptr ? topology->FindWorker(link.name()) : nullptr;
    return worker != nullptr && worker->live;
  };
  for (size_t i = 0; i < workers_.size(); ++i) {
    if (!workers_[i].empty()) continue;
    for (const int32_t worker : former.workers_[i]) {
      const std::shared_ptr<WorkerLink>& link = former.links_[worker];
      if (link->live() && !known(*link)) workers_[i].push_back(AddLink(link));
    }
  }
}

int32_t ExpertRoutes::AddLink(const std::shared_ptr<WorkerLink>& link) {
  const auto at = std::find(links_.begin(), links_.end(), link);
  if (at != links_.end()) return static_cast<int32_t>(at - links_.begin());
  links_.push_back(link);
  return static_cast<int32_t>(links_.size() - 1);
}

const std::vector<int32_t>& ExpertRoutes::WorkersOf(int32_t layer, int32_t expert) const {
  return workers_[index_of_layer_[layer] * num_experts_ + expert];
}

std::vector<std::pair<int32_t, int32_t>> ExpertRoutes::Missing() const {
  std::vector<std::pair<int32_t, int32_t>> missing;
  for (const int32_t layer : moe_layers_) {
    for (int32_t expert = 0; expert < num_experts_; ++expert) {
      const auto& workers = WorkersOf(layer, expert);
      if (std::none_of(workers.begin(), workers.end(),
                       [this](int32_t worker) { return links_[worker]->live(); })) {
        missing.emplace_back(layer, expert);
      }
    }
  }
  return missing;
}

}  // namespace conclave::engine

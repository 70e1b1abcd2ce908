#include "shared/placement/planner.h"

#include <algorithm>
#include <limits>
#include <numeric>

namespace conclave::placement {
namespace {

// How many experts each worker is to own over all layers: equal shares, cut at capacity, the rest
// shared among the others.
std::vector<int64_t> ShareExperts(int64_t num_experts, int64_t expert_bytes,
                                  std::span<const PlannerWorker> workers) {
  const size_t n = workers.size();
  std::vector<int64_t> room(n, std::numeric_limits<int64_t>::max());
  for (size_t w = 0; w < n; ++w) {
    if (workers[w].capacity_bytes > 0 && expert_bytes > 0) {
      room[w] = workers[w].capacity_bytes / expert_bytes;
    }
  }
  std::vector<int64_t> share(n, 0);
  int64_t left = num_experts;
  while (left > 0) {
    std::vector<size_t> open;
    for (size_t w = 0; w < n; ++w) {
      if (share[w] < room[w]) open.push_back(w);
    }
    if (open.empty()) break;
    const int64_t each = left / static_cast<int64_t>(open.size());
    int64_t extra = left % static_cast<int64_t>(open.size());
    for (const size_t w : open) {
      const int64_t wanted = each + (extra > 0 ? 1 : 0);
      if (extra > 0) --extra;
      const int64_t given = std::min(wanted, room[w] - share[w]);
      share[w] += given;
      left -= given;
    }
  }
  return share;
}

// Cuts the workers' shares into quotas for each layer by error diffusion: after i layers a worker
// has been given close to share * i / num_layers. The quotas of a layer sum to at most its experts.
std::vector<std::vector<int64_t>> LayerQuotas(const std::vector<int64_t>& share, int64_t num_layers,
                                              int64_t experts_per_layer) {
  const size_t n = share.size();
  std::vector<std::vector<int64_t>> quotas(num_layers, std::vector<int64_t>(n, 0));
  std::vector<int64_t> given(n, 0);
  const int64_t placed = std::accumulate(share.begin(), share.end(), int64_t{0});
  int64_t placed_before = 0;
  for (int64_t layer = 0; layer < num_layers; ++layer) {
    const int64_t placed_after = placed * (layer + 1) / num_layers;
    int64_t left = std::min(placed_after - placed_before, experts_per_layer);
    placed_before += left;
    // What each worker is behind, in units of 1 / num_layers of an expert; the furthest behind is
    // served first.
    while (left > 0) {
      size_t best = n;
      int64_t best_behind = 0;
      for (size_t w = 0; w < n; ++w) {
        if (given[w] == share[w]) continue;
        const int64_t behind = share[w] * (layer + 1) - given[w] * num_layers;
        if (best == n || behind > best_behind) best = w, best_behind = behind;
      }
      if (best == n) break;
      ++quotas[layer][best];
      ++given[best];
      --left;
    }
  }
  return quotas;
}

}  // namespace

Plan PlanPlacement(const ModelIdentity& model, std::span<const PlannerWorker> workers,
                   const Owners& current) {
  Plan plan;
  const int64_t num_layers = static_cast<int64_t>(model.moe_layers.size());
  const std::vector<int64_t> share =
      ShareExperts(num_layers * model.num_experts, model.expert_bytes, workers);
  const std::vector<std::vector<int64_t>> quotas =
      LayerQuotas(share, num_layers, model.num_experts);

  std::map<std::string, size_t> index;
  for (size_t w = 0; w < workers.size(); ++w) index[workers[w].name] = w;

  for (int64_t i = 0; i < num_layers; ++i) {
    std::vector<int64_t> quota = quotas[i];
    std::vector<int32_t> homeless;
    for (int32_t expert = 0; expert < model.num_experts; ++expert) {
      const ExpertKey key{model.moe_layers[i], expert};
      const auto owner = current.find(key);
      const auto worker = owner == current.end() ? index.end() : index.find(owner->second);
      if (worker != index.end() && quota[worker->second] > 0) {
        --quota[worker->second];
        plan.owners[key] = worker->first;
      } else {
        homeless.push_back(expert);
      }
    }
    size_t w = 0;
    for (const int32_t expert : homeless) {
      while (w < quota.size() && quota[w] == 0) ++w;
      const ExpertKey key{model.moe_layers[i], expert};
      if (w == quota.size()) {
        plan.unplaced.insert(key);
      } else {
        --quota[w];
        plan.owners[key] = workers[w].name;
      }
    }
  }
  return plan;
}

}  // namespace conclave::placement

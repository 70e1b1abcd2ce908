#include "shared/placement/topology.h"

#include <algorithm>

namespace conclave::placement {

ExpertKeys ModelIdentity::AllExperts() const {
  ExpertKeys all;
  for (const int32_t layer : moe_layers) {
    for (int32_t expert = 0; expert < num_experts; ++expert) all.insert(all.end(), {layer, expert});
  }
  return all;
}

const TopologyWorker* ModelTopology::FindWorker(std::string_view name) const {
  const auto it = std::find_if(workers.begin(), workers.end(),
                               [&](const TopologyWorker& w) { return w.name == name; });
  return it == workers.end() ? nullptr : &*it;
}

ExpertKeys ModelTopology::Missing() const {
  ExpertKeys missing = model.AllExperts();
  for (const TopologyWorker& worker : workers) {
    if (!worker.live) continue;
    for (const ExpertKey& key : worker.serve) missing.erase(key);
  }
  return missing;
}

const ModelTopology* Topology::Find(std::string_view fingerprint) const {
  const auto it = std::find_if(models.begin(), models.end(), [&](const ModelTopology& m) {
    return m.model.fingerprint == fingerprint;
  });
  return it == models.end() ? nullptr : &*it;
}

namespace {

// "0-7, 12" for ascending ids.
std::string DescribeRanges(const std::vector<int32_t>& ids) {
  std::string text;
  for (size_t i = 0; i < ids.size();) {
    size_t last = i;
    while (last + 1 < ids.size() && ids[last + 1] == ids[last] + 1) ++last;
    if (!text.empty()) text += ", ";
    text += std::to_string(ids[i]);
    if (last > i) text += "-" + std::to_string(ids[last]);
    i = last + 1;
  }
  return text;
}

}  // namespace

std::string DescribeExperts(const ExpertKeys& experts) {
  std::map<int32_t, std::vector<int32_t>> by_layer;
  for (const ExpertKey& key : experts) by_layer[key.layer].push_back(key.expert);
  // Layers with the same experts are named together.
  std::map<std::vector<int32_t>, std::vector<int32_t>> layers_of;
  for (const auto& [layer, ids] : by_layer) layers_of[ids].push_back(layer);
  std::vector<std::pair<int32_t, std::string>> parts;
  for (const auto& [ids, layers] : layers_of) {
    parts.emplace_back(layers.front(), std::string(layers.size() > 1 ? "layers " : "layer ") +
                                           DescribeRanges(layers) +
                                           (ids.size() > 1 ? " experts " : " expert ") +
                                           DescribeRanges(ids));
  }
  std::sort(parts.begin(), parts.end());  // by first layer
  std::string text;
  for (const auto& [first_layer, part] : parts) text += (text.empty() ? "" : "; ") + part;
  return text;
}

}  // namespace conclave::placement

// Which workers serve which expert: a topology, joined with the links to its workers. An immutable
// snapshot.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "services/engine/dispatch/worker_link.h"
#include "shared/placement/topology.h"

namespace conclave::engine {

class ExpertRoutes {
 public:
  // `topology` may be null: then no worker is placed. `make_link` gives the link to a worker, an
  // old one if it has one. An expert that the topology gives to nobody stays with those of its
  // former workers that are live and that the controller does not know as such: it may just have
  // restarted. One that it knows has told it what it holds. `former` may be null.
  ExpertRoutes(
      const placement::ModelIdentity& model, const placement::ModelTopology* topology,
      const std::function<std::shared_ptr<WorkerLink>(const placement::TopologyWorker&)>& make_link,
      const ExpertRoutes* former);

  const std::vector<std::shared_ptr<WorkerLink>>& links() const { return links_; }
  // Workers that serve the expert, as indices into links(), live or not; usually one.
  const std::vector<int32_t>& WorkersOf(int32_t layer, int32_t expert) const;

  // Experts without a live worker, ascending.
  std::vector<std::pair<int32_t, int32_t>> Missing() const;

 private:
  void Add(const placement::TopologyWorker& worker, const std::shared_ptr<WorkerLink>& link);
  void KeepFormer(const ExpertRoutes& former, const placement::ModelTopology* topology);
  int32_t AddLink(const std::shared_ptr<WorkerLink>& link);  // its index; an old one if it has one

  const std::vector<int32_t> moe_layers_;
  const int32_t num_experts_;
  std::vector<int32_t> index_of_layer_;        // [num_layers]: into moe_layers_, or -1
  std::vector<std::vector<int32_t>> workers_;  // [moe_layers.size() * num_experts]
  std::vector<std::shared_ptr<WorkerLink>> links_;
};

}  // namespace conclave::engine

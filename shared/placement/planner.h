// Decides which worker owns which expert. Pure: the same inputs give the same placement.
//
// Called by the controller only.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "shared/placement/topology.h"

namespace conclave::placement {

struct PlannerWorker {
  std::string name;
  int64_t capacity_bytes = 0;  // memory for experts; 0: no limit
};

using Owners = std::map<ExpertKey, std::string>;  // expert -> worker

struct Plan {
  Owners owners;
  ExpertKeys unplaced;  // experts for which no worker has room
};

// Gives every expert of the model one owner among `workers` (in ascending order of names, none
// twice): bytes are balanced over all layers together as far as capacities allow, and each layer's
// experts are spread evenly, so that a step loads all workers. An expert stays with its `current`
// owner as far as the balance permits. Without workers everything is unplaced.
Plan PlanPlacement(const ModelIdentity& model, std::span<const PlannerWorker> workers,
                   const Owners& current);

}  // namespace conclave::placement

// The last topology, kept on disk by each member so that it can start and go on without a
// controller.
#pragma once

#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shared/placement/topology.h"

namespace conclave::placement {

// "<state_dir>/topology-<member>.json": the protocol buffer conclave.v1.Topology as JSON.
std::string TopologyFilePath(const std::string& state_dir, const std::string& member);

// nullopt when there is no file. A file that cannot be read or parsed is an error that names it;
// the member then starts without.
absl::StatusOr<std::optional<Topology>> ReadTopologyFile(const std::string& path);

absl::Status WriteTopologyFile(const std::string& path, const Topology& topology);

}  // namespace conclave::placement

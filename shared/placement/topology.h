// Which worker holds which expert: the controller's decision, as every member sees it.
//
// Plain values; snapshots are shared as shared_ptr<const Topology> and never change.
#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::placement {

// The version of a topology. It orders topologies; it never decides whether a frame is served.
struct Epoch {
  uint64_t term = 0;    // grows with every controller start
  uint64_t number = 0;  // grows with every change inside a term
  friend auto operator<=>(const Epoch&, const Epoch&) = default;
};

struct ExpertKey {
  int32_t layer = 0;  // index of the main layer, dense layers counted
  int32_t expert = 0;
  friend auto operator<=>(const ExpertKey&, const ExpertKey&) = default;
};
using ExpertKeys = std::set<ExpertKey>;

// What a member serves. Members with equal fingerprints belong together, whatever their paths are
// called.
struct ModelIdentity {
  std::string fingerprint;  // 64 hex digits
  std::string served_name;
  std::string numerics_class;
  int32_t num_layers = 0;
  std::vector<int32_t> moe_layers;  // ascending
  int32_t num_experts = 0;          // in each of them
  int64_t expert_bytes = 0;         // of one expert in memory
  friend bool operator==(const ModelIdentity&, const ModelIdentity&) = default;

  ExpertKeys AllExperts() const;
};

// Where engines of the same host reach a worker through shared memory. Both empty: nowhere.
struct HostSocket {
  std::string host_id;  // shm::HostId() of the worker
  std::string path;     // as the worker sees it
  friend bool operator==(const HostSocket&, const HostSocket&) = default;
};

struct TopologyWorker {
  std::string name;     // "expert-0"
  std::string address;  // host:port
  std::string host;     // failure domain
  HostSocket host_socket;
  bool live = false;  // holds its lease
  ExpertKeys
      hold;  // what the worker is to have loaded: it loads what is missing and releases the rest
  ExpertKeys serve;  // what engines send it: loaded, and this worker's by the placement
  friend bool operator==(const TopologyWorker&, const TopologyWorker&) = default;
};

struct ModelTopology {
  ModelIdentity model;
  std::vector<TopologyWorker> workers;  // ascending by name
  friend bool operator==(const ModelTopology&, const ModelTopology&) = default;

  const TopologyWorker* FindWorker(std::string_view name) const;
  // Experts that no live worker serves.
  ExpertKeys Missing() const;
};

struct Topology {
  std::string cluster_id;  // empty: of a time without
  Epoch epoch;
  std::vector<ModelTopology> models;  // ascending by fingerprint

  const ModelTopology* Find(std::string_view fingerprint) const;
};

// "layers 1-4 experts 0-7; layer 5 expert 3" for messages; empty for none.
std::string DescribeExperts(const ExpertKeys& experts);

}  // namespace conclave::placement

// What the engine counts about its calls to workers, as handles into the registry. Step thread
// only, but for CountLinks: link thread only.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "shared/metrics/registry.h"

namespace conclave::engine {

class DispatchMetrics {
 public:
  // `registry` outlives this; null: nothing is counted.
  DispatchMetrics(metrics::Registry* registry, int32_t num_experts);

  // The experts of one layer's call, one entry a row.
  void CountRows(int32_t layer, std::span<const int32_t> expert_ids);
  void CountCall(const std::string& worker, double seconds);
  // Of workers that are connected.
  void CountLinks(int64_t shared_memory, int64_t grpc);
  void CountError(std::string_view code);  // "NOT_HELD", or a gRPC code's name

 private:
  metrics::Registry* const registry_;
  const int32_t num_experts_;
  std::map<std::pair<int32_t, int32_t>, metrics::Counter*> rows_;
  std::map<std::string, metrics::Histogram*> calls_;
  std::vector<int64_t> rows_of_;  // [num_experts], of the layer being counted
};

}  // namespace conclave::engine

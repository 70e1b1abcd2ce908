// What an expert worker counts, as handles into the registry.
//
// Row counters belong to the compute thread; the rest is thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <utility>

#include "shared/metrics/registry.h"

namespace conclave::expert {

class WorkerMetrics {
 public:
  // Borrows the registry, which outlives it.
  explicit WorkerMetrics(metrics::Registry* registry);

  void AddRows(int32_t layer, int32_t expert, int64_t rows);  // compute thread only

  // The relative error of the experts held, of any thread. They were quantised here.
  void SetQuantizationError(double ratio);

  metrics::Counter& frames;
  metrics::Histogram& queue_seconds;
  metrics::Gauge& queue_bytes;
  metrics::Histogram& unit_seconds;
  metrics::Histogram& unit_rows;
  metrics::Gauge& experts;
  metrics::Gauge& resident_bytes;

 private:
  metrics::Registry& registry_;
  std::map<std::pair<int32_t, int32_t>, metrics::Counter*> rows_;
};

}  // namespace conclave::expert

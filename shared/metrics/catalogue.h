// Every metric of Conclave: name, type, unit, labels, buckets and help, declared once. The registry
// makes no other ones, and docs/metrics.md is written from this table
// (shared/metrics/write_docs.cc).
//
// Names follow Prometheus: conclave_ first, base units (seconds, bytes, ratio), counters end in
// _total.
#pragma once

#include <span>
#include <string_view>

namespace conclave::metrics {

enum class MetricType { kCounter, kGauge, kHistogram };

struct MetricInfo {
  std::string_view name;
  MetricType type;
  std::string_view unit;     // "seconds", "bytes", "1" for counts, "ratio" from 0 to 1
  std::string_view process;  // who exports it: "gateway", "engine", "expert", "controller", "all"
  std::span<const std::string_view> labels;  // names, in the order that callers give values
  std::span<const double> buckets;           // upper bounds, ascending; histograms only
  std::string_view help;
};

// In the order of the documentation.
std::span<const MetricInfo> Catalogue();

// nullptr when there is no such metric.
const MetricInfo* FindMetric(std::string_view name);

}  // namespace conclave::metrics

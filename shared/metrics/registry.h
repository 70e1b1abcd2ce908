// The metrics of one process, in Prometheus' data model. Names, units and help are declared once in
// catalogue.h, from which docs/metrics.md is generated; a metric that is not in the catalogue
// cannot be made.
//
// Thread-safe. Handles stay valid as long as the registry.
#pragma once

#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace conclave::metrics {

class Counter {
 public:
  virtual ~Counter() = default;
  virtual void Increment(double amount = 1) = 0;
};
class Gauge {
 public:
  virtual ~Gauge() = default;
  virtual void Set(double value) = 0;
};
class Histogram {
 public:
  virtual ~Histogram() = default;
  virtual void Observe(double value) = 0;
};

using Labels = std::vector<std::pair<std::string, std::string>>;  // label values in the catalogue's
                                                                  // order and names

class Registry {
 public:
  Registry();
  ~Registry();

  // CHECK-fails when the name is not in the catalogue with that type and those label names. The
  // same name and labels give the same handle.
  Counter& GetCounter(std::string_view name, const Labels& labels = {});
  Gauge& GetGauge(std::string_view name, const Labels& labels = {});
  Histogram& GetHistogram(std::string_view name, const Labels& labels = {});

  std::string Expose() const;  // text format 0.0.4

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace conclave::metrics

#include "shared/metrics/registry.h"

#include <cstdio>
#include <cstdlib>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "prometheus/counter.h"
#include "prometheus/family.h"
#include "prometheus/gauge.h"
#include "prometheus/histogram.h"
#include "prometheus/registry.h"
#include "prometheus/text_serializer.h"
#include "shared/base/mutex.h"
#include "shared/metrics/catalogue.h"

namespace conclave::metrics {
namespace {

class PrometheusCounter final : public Counter {
 public:
  explicit PrometheusCounter(prometheus::Counter& counter) : counter_(counter) {}
  void Increment(double amount) override { counter_.Increment(amount); }

 private:
  prometheus::Counter& counter_;
};

class PrometheusGauge final : public Gauge {
 public:
  explicit PrometheusGauge(prometheus::Gauge& gauge) : gauge_(gauge) {}
  void Set(double value) override { gauge_.Set(value); }

 private:
  prometheus::Gauge& gauge_;
};

class PrometheusHistogram final : public Histogram {
 public:
  explicit PrometheusHistogram(prometheus::Histogram& histogram) : histogram_(histogram) {}
  void Observe(double value) override { histogram_.Observe(value); }

 private:
  prometheus::Histogram& histogram_;
};

// A metric that the catalogue does not have is a programmer's error: say which, and stop.
[[noreturn]] void Refuse(std::string_view name, const std::string& reason) {
  std::fprintf(stderr, "metric %s: %s; see shared/metrics/catalogue.cc\n",
               std::string(name).c_str(), reason.c_str());
  std::abort();
}

const MetricInfo& Checked(std::string_view name, MetricType type, const Labels& labels) {
  const MetricInfo* info = FindMetric(name);
  if (info == nullptr) Refuse(name, "not in the catalogue");
  if (info->type != type) Refuse(name, "asked for as another type than the catalogue's");
  if (labels.size() != info->labels.size()) {
    Refuse(name, absl::StrCat("given ", labels.size(), " labels, the catalogue has ",
                              info->labels.size()));
  }
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i].first != info->labels[i]) {
      Refuse(name, absl::StrCat("label ", i, " is ", labels[i].first, ", the catalogue has ",
                                std::string(info->labels[i])));
    }
  }
  return *info;
}

// What a handle is found by; compared without making one of its own kind.
struct HandleName {
  std::string name;
  Labels labels;
};
struct HandleView {
  std::string_view name;
  const Labels& labels;
};
struct ByName {
  using is_transparent = void;
  template <typename A, typename B>
  bool operator()(const A& a, const B& b) const {
    const int order = std::string_view(a.name).compare(b.name);
    return order != 0 ? order < 0 : a.labels < b.labels;
  }
};

template <typename Handle>
using Handles = std::map<HandleName, std::unique_ptr<Handle>, ByName>;

// The handle, made by make() if it is the first time that it is asked for.
template <typename Handle, typename Make>
Handle& FindOrMake(Handles<Handle>& handles, std::string_view name, const Labels& labels,
                   const Make& make) {
  const auto found = handles.find(HandleView{name, labels});
  if (found != handles.end()) return *found->second;
  return *handles.emplace(HandleName{std::string(name), labels}, make()).first->second;
}

}  // namespace

struct Registry::State {
  prometheus::Registry registry;
  Mutex mutex;
  Handles<Counter> counters GUARDED_BY(mutex);
  Handles<Gauge> gauges GUARDED_BY(mutex);
  Handles<Histogram> histograms GUARDED_BY(mutex);
};

Registry::Registry() : state_(std::make_unique<State>()) {}
Registry::~Registry() = default;

Counter& Registry::GetCounter(std::string_view name, const Labels& labels) {
  MutexLock lock(state_->mutex);
  return FindOrMake(state_->counters, name, labels, [&] {
    const MetricInfo& info = Checked(name, MetricType::kCounter, labels);
    auto& family = prometheus::BuildCounter()
                       .Name(std::string(name))
                       .Help(std::string(info.help))
                       .Register(state_->registry);
    return std::make_unique<PrometheusCounter>(
        family.Add(prometheus::Labels(labels.begin(), labels.end())));
  });
}

Gauge& Registry::GetGauge(std::string_view name, const Labels& labels) {
  MutexLock lock(state_->mutex);
  return FindOrMake(state_->gauges, name, labels, [&] {
    const MetricInfo& info = Checked(name, MetricType::kGauge, labels);
    auto& family = prometheus::BuildGauge()
                       .Name(std::string(name))
                       .Help(std::string(info.help))
                       .Register(state_->registry);
    return std::make_unique<PrometheusGauge>(
        family.Add(prometheus::Labels(labels.begin(), labels.end())));
  });
}

Histogram& Registry::GetHistogram(std::string_view name, const Labels& labels) {
  MutexLock lock(state_->mutex);
  return FindOrMake(state_->histograms, name, labels, [&] {
    const MetricInfo& info = Checked(name, MetricType::kHistogram, labels);
    auto& family = prometheus::BuildHistogram()
                       .Name(std::string(name))
                       .Help(std::string(info.help))
                       .Register(state_->registry);
    return std::make_unique<PrometheusHistogram>(family.Add(
        prometheus::Labels(labels.begin(), labels.end()),
        prometheus::Histogram::BucketBoundaries(info.buckets.begin(), info.buckets.end())));
  });
}

std::string Registry::Expose() const {
  return prometheus::TextSerializer().Serialize(state_->registry.Collect());
}

}  // namespace conclave::metrics

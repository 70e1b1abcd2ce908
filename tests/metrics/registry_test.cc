#include "shared/metrics/registry.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "shared/metrics/catalogue.h"

namespace conclave::metrics {
namespace {

using ::testing::HasSubstr;

TEST(RegistryTest, ExposesWhatWasCounted) {
  Registry registry;
  registry.GetCounter("conclave_requests_total", {{"api", "chat"}, {"code", "OK"}}).Increment(3);
  registry.GetGauge("conclave_kv_used_ratio").Set(0.25);
  registry.GetHistogram("conclave_queue_wait_seconds").Observe(0.02);
  const std::string text = registry.Expose();
  EXPECT_THAT(text, HasSubstr("# TYPE conclave_requests_total counter"));
  EXPECT_THAT(text, HasSubstr("conclave_requests_total{api=\"chat\",code=\"OK\"} 3"));
  EXPECT_THAT(text, HasSubstr("conclave_kv_used_ratio 0.25"));
  EXPECT_THAT(text, HasSubstr("conclave_queue_wait_seconds_bucket{le=\"0.025\"} 1"));
  EXPECT_THAT(text, HasSubstr("conclave_queue_wait_seconds_bucket{le=\"0.01\"} 0"));
  EXPECT_THAT(text, HasSubstr("conclave_queue_wait_seconds_count 1"));
}

TEST(RegistryTest, SameNameAndLabelsAreOneMetric) {
  Registry registry;
  Counter& first = registry.GetCounter("conclave_errors_total", {{"code", "UNAVAILABLE"}});
  EXPECT_EQ(&first, &registry.GetCounter("conclave_errors_total", {{"code", "UNAVAILABLE"}}));
  EXPECT_NE(&first, &registry.GetCounter("conclave_errors_total", {{"code", "INTERNAL"}}));
}

TEST(RegistryDeathTest, RefusesWhatTheCatalogueDoesNotHave) {
  Registry registry;
  EXPECT_DEATH(registry.GetCounter("conclave_nonsense_total"), "not in the catalogue");
  EXPECT_DEATH(registry.GetGauge("conclave_errors_total", {{"code", "OK"}}), "another type");
  EXPECT_DEATH(registry.GetCounter("conclave_errors_total"), "labels");
  EXPECT_DEATH(registry.GetCounter("conclave_errors_total", {{"status", "OK"}}), "label 0");
}

TEST(CatalogueTest, FollowsTheConventions) {
  std::set<std::string_view> names;
  for (const MetricInfo& info : Catalogue()) {
    EXPECT_TRUE(names.insert(info.name).second) << info.name << " is declared twice";
    EXPECT_TRUE(info.name.starts_with("conclave_")) << info.name;
    EXPECT_EQ(info.type == MetricType::kCounter, info.name.ends_with("_total")) << info.name;
    EXPECT_EQ(info.type == MetricType::kHistogram, !info.buckets.empty()) << info.name;
    EXPECT_TRUE(std::is_sorted(info.buckets.begin(), info.buckets.end())) << info.name;
    EXPECT_TRUE(info.help.ends_with('.')) << info.name;
    if (info.unit != "1") {
      EXPECT_THAT(std::string(info.name), HasSubstr("_" + std::string(info.unit))) << info.name;
    }
    EXPECT_EQ(FindMetric(info.name), &info);
  }
  EXPECT_EQ(FindMetric("conclave_nonsense_total"), nullptr);
}

}  // namespace
}  // namespace conclave::metrics

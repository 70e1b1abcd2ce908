// Writes docs/metrics.md from the catalogue. Usage: conclave-metrics-docs [FILE]; standard output
// without one.
#include <cstdio>
#include <string>

#include "absl/strings/str_cat.h"
#include "shared/base/json_file.h"
#include "shared/metrics/catalogue.h"

namespace conclave::metrics {
namespace {

const char* TypeName(MetricType type) {
  switch (type) {
    case MetricType::kCounter:
      return "counter";
    case MetricType::kGauge:
      return "gauge";
    case MetricType::kHistogram:
      return "histogram";
  }
  return "";
}

std::string Page() {
  std::string page =
      "# Metrics\n\nEvery process serves `/metrics` in Prometheus' text format, on its "
      "`ops_listen` port.\nThis page is written from "
      "`shared/metrics/catalogue.cc` by `ci/docs.sh`; do not edit it.\n"
      "Dashboards, alerts and scaling rules that use them are in `helm/conclave/files`; "
      "[runbooks.md](runbooks.md) says what to do about each alert.\n";
  std::string_view process;
  for (const MetricInfo& info : Catalogue()) {
    if (info.process != process) {
      process = info.process;
      absl::StrAppend(&page, "\n## ",
                      process == "all" ? std::string("Every process") : std::string(process),
                      "\n\n| Name | Type | Unit | Labels | Meaning |\n|---|---|---|---|---|\n");
    }
    std::string labels;
    for (const std::string_view label : info.labels) {
      absl::StrAppend(&labels, labels.empty() ? "" : ", ", "`", std::string(label), "`");
    }
    absl::StrAppend(&page, "| `", std::string(info.name), "` | ", TypeName(info.type), " | ",
                    std::string(info.unit == "1" ? "" : info.unit), " | ", labels, " | ",
                    std::string(info.help), " |\n");
  }
  return page;
}

}  // namespace
}  // namespace conclave::metrics

int main(int argc, char** argv) {
  const std::string page = conclave::metrics::Page();
  if (argc < 2) {
    std::fputs(page.c_str(), stdout);
    return 0;
  }
  const absl::Status status = conclave::WriteFileAtomically(argv[1], page);
  if (!status.ok()) std::fprintf(stderr, "error: %s\n", std::string(status.message()).c_str());
  return status.ok() ? 0 : 1;
}

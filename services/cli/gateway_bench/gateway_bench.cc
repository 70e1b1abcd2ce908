#include "services/cli/gateway_bench/gateway_bench.h"

#include <algorithm>
#include <cstdio>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "services/cli/gateway_bench/row.h"
#include "services/cli/interrupt.h"
#include "services/cli/table.h"
#include "shared/base/nearest.h"
#include "shared/base/status_macros.h"

namespace conclave::cli {
namespace {

constexpr BenchRow kRows[] = {
    {"hits", "answers from the cache", MeasureHits},
    {"latency", "added at half of the load", MeasureLatency},
    {"streams", "memory of open streams", MeasureStreams},
    {"overload", "five times what can be answered", MeasureOverload},
    {"fairness", "two tenants, one sends 20 times as much", MeasureFairness},
    {"realtime", "beside another tenant's batch", MeasureRealtime},
    {"isolation", "what a tenant can tell of another", MeasureIsolation},
};

std::vector<std::string> RowNames() {
  std::vector<std::string> names;
  for (const BenchRow& row : kRows) names.emplace_back(row.name);
  return names;
}

absl::StatusOr<std::vector<const BenchRow*>> ChosenRows(const std::vector<std::string>& names) {
  std::vector<const BenchRow*> rows;
  for (const BenchRow& row : kRows) {
    if (names.empty() || std::find(names.begin(), names.end(), row.name) != names.end()) {
      rows.push_back(&row);
    }
  }
  for (const std::string& name : names) {
    const bool known = std::any_of(std::begin(kRows), std::end(kRows),
                                   [&](const BenchRow& row) { return name == row.name; });
    if (!known) {
      return absl::InvalidArgumentError(
          absl::StrCat("\"", name, "\" is no row of conclave bench gateway; the nearest is ",
                       NearestOf(name, RowNames()), ", all are ", absl::StrJoin(RowNames(), ", ")));
    }
  }
  return rows;
}

std::string Number(double value) {
  char text[32];
  const double size = std::abs(value);
  std::snprintf(text, sizeof(text), size >= 1000 ? "%.0f" : size >= 10 ? "%.1f" : "%.3f", value);
  return text;
}

std::string Reach(const Figure& figure) {
  std::vector<std::string> parts;
  if (figure.least) parts.push_back(">= " + Number(*figure.least));
  if (figure.most) parts.push_back("<= " + Number(*figure.most));
  return parts.empty() ? "-" : absl::StrJoin(parts, ", ");
}

void PrintRow(const BenchRow& row, const std::vector<Figure>& figures) {
  std::vector<std::vector<std::string>> table = {
      {absl::StrCat(row.name, ": ", row.what), "MEASURED", "UNIT", "REACH", "REACHED"}};
  for (const Figure& figure : figures) {
    table.push_back({figure.name, Number(figure.value), figure.unit, Reach(figure),
                     !figure.least && !figure.most ? "-"
                     : figure.reached()            ? "yes"
                                                   : "no"});
  }
  std::printf("%s\n", FormatTable(table).c_str());
  std::fflush(stdout);
}

nlohmann::json ToJson(const std::vector<Figure>& figures) {
  nlohmann::json list = nlohmann::json::array();
  for (const Figure& figure : figures) {
    nlohmann::json entry = {{"name", figure.name}, {"value", figure.value}, {"unit", figure.unit}};
    if (figure.least) entry["least"] = *figure.least;
    if (figure.most) entry["most"] = *figure.most;
    if (figure.least || figure.most) entry["reached"] = figure.reached();
    list.push_back(std::move(entry));
  }
  return list;
}

}  // namespace

std::string GatewayBenchRows() {
  std::vector<std::string> rows;
  for (const BenchRow& row : kRows) rows.push_back(absl::StrCat(row.name, " (", row.what, ")"));
  return absl::StrCat("gateway: what to measure, of ", absl::StrJoin(rows, ", "), "; default: all");
}

int RunGatewayBench(const Context& context, const GatewayBenchOptions& options) {
  const auto rows = ChosenRows(options.rows);
  if (!rows.ok()) return Fail(rows.status());
  if (context.options.common.model.empty()) {
    return Fail(absl::InvalidArgumentError("no model to serve; give a checkpoint: --model DIR"));
  }
  StopSignals signals;  // before any thread: gRPC's must not take them
  const InterruptFlag interrupt(signals);
  nlohmann::json all = nlohmann::json::object();
  absl::Status failed;
  for (const BenchRow* row : *rows) {
    const RowContext row_context = {.model = context.options.common.model,
                                    .seconds = options.seconds,
                                    .streams = options.streams,
                                    .interrupted = &interrupt.interrupted(),
                                    .progress = [row](const std::string& what) {
                                      std::fprintf(stderr, "%s: %s\n", row->name, what.c_str());
                                    }};
    const absl::StatusOr<std::vector<Figure>> figures = row->measure(row_context);
    if (interrupt.interrupted().load()) break;
    if (!figures.ok()) {
      std::fprintf(stderr, "error: %s: %s\n", row->name, figures.status().ToString().c_str());
      failed = figures.status();
      continue;
    }
    options.json ? (all[row->name] = ToJson(*figures), void()) : PrintRow(*row, *figures);
  }
  if (options.json) {
    const nlohmann::json told = {{"cores", std::thread::hardware_concurrency()},
                                 {"seconds", options.seconds},
                                 {"rows", all}};
    std::printf("%s\n", told.dump(2, ' ', false, nlohmann::json::error_handler_t::replace).c_str());
  }
  if (interrupt.interrupted().load()) {
    std::fprintf(stderr, "interrupted; rows that had not ended are missing\n");
    return kExitInterrupted;
  }
  return failed.ok() ? kExitOk : kExitFailed;
}

}  // namespace conclave::cli

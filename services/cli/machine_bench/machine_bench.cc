#include "services/cli/machine_bench/machine_bench.h"

#include <cstdio>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "kernels/context.h"
#include "kernels/matrix.h"
#include "nlohmann/json.hpp"
#include "services/cli/machine_bench/rates.h"
#include "services/cli/machine_bench/round_trip.h"
#include "services/cli/percentiles.h"
#include "services/cli/table.h"
#include "shared/base/limits.h"
#include "shared/base/status_macros.h"
#include "shared/model/served_model.h"

namespace conclave::cli {
namespace {

struct Figure {
  std::string name;
  double value = 0;
  std::string unit;
};

absl::StatusOr<std::vector<Figure>> MeasureMachine(kernels::CpuLevel level, int threads,
                                                   double seconds) {
  using kernels::WeightType;
  const std::string all = absl::StrCat(", ", Count(threads, "thread"));
  std::vector<Figure> figures;
  ASSIGN_OR_RETURN(const double read_rate, ReadRate(level, threads, seconds));
  figures.push_back({"memory read" + all, 1e-9 * read_rate, "GB/s"});
  if (threads > 1) {
    ASSIGN_OR_RETURN(const double alone, ReadRate(level, 1, seconds));
    figures.push_back({"memory read, 1 thread", 1e-9 * alone, "GB/s"});
  }
  const std::pair<const char*, WeightType> types[] = {
      {"f32", WeightType::kF32}, {"bf16", WeightType::kBf16}, {"int8", WeightType::kInt8}};
  for (const auto& [name, type] : types) {
    const double rate = MultiplyAddRate(level, type, threads, seconds);
    if (rate > 0) {
      figures.push_back({absl::StrCat(name, " multiply-adds", all), 1e-9 * rate, "GOP/s"});
    }
  }
  const std::pair<const char*, RoundTripWay> ways[] = {
      {"shared memory", RoundTripWay::kSharedMemory},
      {"gRPC, Unix socket", RoundTripWay::kUnixSocket},
      {"gRPC, TCP", RoundTripWay::kTcp}};
  for (const auto& [way_name, way] : ways) {
    const auto times = MeasureRoundTrips(way, seconds);
    if (!times.ok()) return times.status();
    const std::string name = absl::StrCat("message there and back, ", way_name);
    figures.push_back({name + ", P50", 1e6 * Percentile(*times, 50), "us"});
    figures.push_back({name + ", P99", 1e6 * Percentile(*times, 99), "us"});
  }
  return figures;
}

}  // namespace

int RunMachineBench(const MachineBenchOptions& options) {
  const int threads = options.threads > 0 ? options.threads : ReadCpuLimit().cores;
  const auto chosen_level = model::ChooseCpuLevel("--cpu-level", options.cpu_level);
  if (!chosen_level.ok()) return Fail(chosen_level.status());
  const kernels::CpuLevel level = *chosen_level;
  const auto figures = MeasureMachine(level, threads, options.seconds);
  if (!figures.ok()) return Fail(figures.status());
  const std::string level_name(kernels::CpuLevelName(level));
  if (options.json) {
    nlohmann::json list = nlohmann::json::array();
    for (const Figure& figure : *figures) {
      list.push_back({{"name", figure.name}, {"value", figure.value}, {"unit", figure.unit}});
    }
    const nlohmann::json told = {{"threads", threads},
                                 {"cpu_level", level_name},
                                 {"seconds", options.seconds},
                                 {"figures", list}};
    std::printf("%s\n", told.dump(2).c_str());
    return kExitOk;
  }
  std::vector<std::vector<std::string>> table = {
      {absl::StrCat("machine: level ", level_name), "MEASURED", "UNIT"}};
  for (const Figure& figure : *figures) {
    char value[32];
    std::snprintf(value, sizeof(value), "%.1f", figure.value);
    table.push_back({figure.name, value, figure.unit});
  }
  std::printf("%s", FormatTable(table).c_str());
  return kExitOk;
}

}  // namespace conclave::cli

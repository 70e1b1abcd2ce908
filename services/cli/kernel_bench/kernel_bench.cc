#include "services/cli/kernel_bench/kernel_bench.h"

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <map>
#include <optional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "nlohmann/json.hpp"
#include "services/cli/kernel_bench/kernel_case.h"
#include "services/cli/machine_bench/rates.h"
#include "services/cli/table.h"
#include "shared/base/limits.h"
#include "shared/base/status_macros.h"
#include "shared/model/served_model.h"

namespace conclave::cli {
namespace {

using std::chrono::steady_clock;

struct Measured {
  std::string name;
  double seconds = 0;  // of a call
  double bytes = 0, operations = 0;
  std::optional<double> share;  // of the bound
};

// The least time of a call; none at the reference level.
std::optional<double> BoundSeconds(const KernelCase& kernel, const MachineRates& rates) {
  const double operations = rates.operations.at(kernel.type);
  if (!kernel.bounded || operations == 0) return std::nullopt;
  return std::max(kernel.bytes / rates.read, kernel.operations / operations);
}

// Seconds of a call, after one to warm up.
double SecondsOf(const KernelCase& kernel, kernels::Context& context, double seconds) {
  kernel.run(context);
  const auto start = steady_clock::now();
  double elapsed = 0;
  int64_t calls = 0;
  while (elapsed < seconds) {
    kernel.run(context);
    ++calls;
    elapsed = std::chrono::duration<double>(steady_clock::now() - start).count();
  }
  return elapsed / static_cast<double>(calls);
}

std::string Rounded(double value, int digits) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.*f", digits, value);
  return text;
}

void PrintTable(const MachineRates& rates, const std::vector<Measured>& all) {
  using kernels::WeightType;
  const auto rate = [&](WeightType type) { return Rounded(1e-9 * rates.operations.at(type), 0); };
  std::printf("memory read %s GB/s, multiply-adds f32 %s, bf16 %s, int8 %s GOP/s\n",
              Rounded(1e-9 * rates.read, 1).c_str(), rate(WeightType::kF32).c_str(),
              rate(WeightType::kBf16).c_str(), rate(WeightType::kInt8).c_str());
  std::vector<std::vector<std::string>> table = {
      {"KERNEL", "MICROSECONDS", "GB/S", "GOP/S", "OF THE BOUND"}};
  for (const Measured& one : all) {
    table.push_back({one.name, Rounded(1e6 * one.seconds, 1),
                     one.bytes > 0 ? Rounded(1e-9 * one.bytes / one.seconds, 1) : "-",
                     one.operations > 0 ? Rounded(1e-9 * one.operations / one.seconds, 0) : "-",
                     one.share ? Rounded(100 * *one.share, 0) + " %" : "-"});
  }
  std::printf("%s", FormatTable(table).c_str());
}

void PrintJson(const MachineRates& rates, const std::vector<Measured>& all, int threads,
               kernels::CpuLevel level) {
  using kernels::WeightType;
  nlohmann::json list = nlohmann::json::array();
  for (const Measured& one : all) {
    nlohmann::json entry = {{"name", one.name},
                            {"seconds", one.seconds},
                            {"bytes", one.bytes},
                            {"operations", one.operations}};
    if (one.share) entry["of_the_bound"] = *one.share;
    list.push_back(std::move(entry));
  }
  const nlohmann::json told = {{"threads", threads},
                               {"cpu_level", std::string(kernels::CpuLevelName(level))},
                               {"bytes_read_per_second", rates.read},
                               {"operations_per_second",
                                {{"f32", rates.operations.at(WeightType::kF32)},
                                 {"bf16", rates.operations.at(WeightType::kBf16)},
                                 {"int8", rates.operations.at(WeightType::kInt8)}}},
                               {"kernels", list}};
  std::printf("%s\n", told.dump(2).c_str());
}

}  // namespace

int RunKernelBench(const KernelBenchOptions& options) {
  std::vector<NamedCase> chosen;
  std::vector<std::string> names;
  for (NamedCase& named : KernelCases()) {
    names.push_back(named.name);
    const bool wanted =
        options.only.empty() || std::ranges::any_of(options.only, [&](const std::string& part) {
          return named.name.find(part) != std::string::npos;
        });
    if (wanted) chosen.push_back(std::move(named));
  }
  if (chosen.empty()) {
    return Fail(absl::InvalidArgumentError(
        absl::StrCat("no kernel's name contains \"", absl::StrJoin(options.only, "\" or \""),
                     "\"; they are: ", absl::StrJoin(names, "; "))));
  }
  const int threads = options.threads > 0 ? options.threads : ReadCpuLimit().cores;
  const auto chosen_level = model::ChooseCpuLevel("--cpu-level", options.cpu_level);
  if (!chosen_level.ok()) return Fail(chosen_level.status());
  const kernels::CpuLevel level = *chosen_level;
  kernels::Context context(level, threads);
  const auto rates = MeasureRates(level, threads, options.seconds);
  if (!rates.ok()) return Fail(rates.status());
  std::vector<Measured> all;
  for (const NamedCase& named : chosen) {
    std::fprintf(stderr, "%s\n", named.name.c_str());
    const KernelCase kernel = named.make();
    Measured one{.name = kernel.name,
                 .seconds = SecondsOf(kernel, context, options.seconds),
                 .bytes = kernel.bytes,
                 .operations = kernel.operations,
                 .share = std::nullopt};
    if (const auto bound = BoundSeconds(kernel, *rates)) one.share = *bound / one.seconds;
    all.push_back(std::move(one));
  }
  options.json ? PrintJson(*rates, all, threads, level) : PrintTable(*rates, all);
  return kExitOk;
}

}  // namespace conclave::cli

#include "services/cli/model_bench/report.h"

#include <cstdio>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/cli/table.h"
#include "shared/base/byte_size.h"

namespace conclave::cli {
namespace {

using kernels::WeightType;

std::string Rounded(double value, int digits) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.*f", digits, value);
  return text;
}

std::string Rate(double tokens_per_second) {
  return Rounded(tokens_per_second, tokens_per_second < 100 ? 2 : 0);
}

std::string Percent(double part, double whole) {
  return whole > 0 ? Rounded(100 * part / whole, 1) + " %" : "-";
}

std::string NameOf(const ModelBenchRow& row) {
  if (row.tokens > 0) return absl::StrCat("prefill ", row.tokens);
  return absl::StrCat("decode, batch ", row.batch, ", context ", row.context);
}

nlohmann::json ToJson(const SpeedOf& speed) {
  return {{"tokens_per_second", speed.tokens_per_second},
          {"bound_tokens_per_second", speed.bound_tokens_per_second},
          {"share_of_bound", speed.share_of_bound}};
}

nlohmann::json ToJson(const ModelBenchCost& cost) {
  return {{"start_seconds", cost.start_seconds},
          {"resident_bytes", cost.resident_bytes},
          {"private_bytes", cost.private_bytes}};
}

}  // namespace

std::string ModelBenchReport::ToTable() const {
  const auto operations = [&](WeightType type) {
    return Rounded(1e-9 * rates.operations.at(type), 0);
  };
  std::string text =
      absl::StrCat(model, ": ", formats, ", ", FormatBytes(model_bytes),
                   ", of which a token reads ", FormatBytes(static_cast<int64_t>(active_bytes)),
                   "; level ", cpu_level, ", ", Count(threads, "thread"), ", median of ", rounds,
                   "\n", "memory read ", Rounded(1e-9 * rates.read, 1), " GB/s, multiply-adds f32 ",
                   operations(WeightType::kF32), ", bf16 ", operations(WeightType::kBf16),
                   ", int8 ", operations(WeightType::kInt8), " GOP/s\n\n");
  const std::string workers_name = Count(num_workers, "worker");
  std::vector<std::vector<std::string>> table = {
      {"TOKENS A SECOND", "BOUND", "BY", "IN PROCESS", "OF THE BOUND"}};
  if (workers) table.front().insert(table.front().end(), {workers_name, "OF IN PROCESS"});
  for (const ModelBenchRow& row : rows) {
    table.push_back({NameOf(row), Rate(row.in_process.bound_tokens_per_second),
                     row.bound_by_memory ? "memory" : "arithmetic",
                     Rate(row.in_process.tokens_per_second),
                     Percent(row.in_process.share_of_bound, 1)});
    if (!row.workers) continue;
    table.back().insert(table.back().end(), {Rate(row.workers->tokens_per_second),
                                             Percent(row.workers->tokens_per_second,
                                                     row.in_process.tokens_per_second)});
  }
  absl::StrAppend(&text, FormatTable(table), "\n");
  const auto tell = [&](const std::string& name, const ModelBenchCost& cost) {
    absl::StrAppend(&text, name, ": ready after ", Rounded(cost.start_seconds, 2), " s; resident ",
                    FormatBytes(cost.resident_bytes), ", ", FormatBytes(cost.private_bytes),
                    " of it not of the model's file\n");
  };
  tell("in process", in_process);
  if (workers) tell(workers_name, *workers);
  return text;
}

std::string ModelBenchReport::ToJson() const {
  nlohmann::json list = nlohmann::json::array();
  for (const ModelBenchRow& row : rows) {
    nlohmann::json one = {{"what", row.what},
                          {"bound_by", row.bound_by_memory ? "memory" : "arithmetic"},
                          {"in_process", cli::ToJson(row.in_process)}};
    if (row.tokens > 0) {
      one["tokens"] = row.tokens;
    } else {
      one["batch"] = row.batch;
      one["context"] = row.context;
      one["active_expert_ratio"] =
          row.active_expert_ratio > 0 ? nlohmann::json(row.active_expert_ratio) : nlohmann::json();
    }
    if (row.workers) one["workers"] = cli::ToJson(*row.workers);
    list.push_back(std::move(one));
  }
  nlohmann::json told = {{"model", model},
                         {"formats", formats},
                         {"model_bytes", model_bytes},
                         {"active_bytes", active_bytes},
                         {"cpu_level", cpu_level},
                         {"threads", threads},
                         {"num_workers", num_workers},
                         {"rounds", rounds},
                         {"bytes_read_per_second", rates.read},
                         {"operations_per_second",
                          {{"f32", rates.operations.at(WeightType::kF32)},
                           {"bf16", rates.operations.at(WeightType::kBf16)},
                           {"int8", rates.operations.at(WeightType::kInt8)}}},
                         {"complete", complete},
                         {"rows", std::move(list)},
                         {"in_process", cli::ToJson(in_process)}};
  if (workers) told["workers"] = cli::ToJson(*workers);
  return told.dump(2) + "\n";
}

}  // namespace conclave::cli

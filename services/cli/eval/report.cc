#include "services/cli/eval/report.h"

#include <cstdint>
#include <cstdio>
#include <vector>

#include "absl/strings/str_cat.h"
#include "services/cli/table.h"

namespace conclave::cli {
namespace {

std::string Rounded(const char* format, double value) {
  char text[64];
  std::snprintf(text, sizeof(text), format, value);
  return text;
}

std::string Percent(double ratio) { return Rounded("%.3f %%", 100 * ratio); }

std::string TextTable(const nlohmann::json& told) {
  const nlohmann::json& text = told["text"];
  std::string table = absl::StrCat(Count(text["tokens"].get<int64_t>(), "token"), " predicted in ",
                                   Count(text["windows"].get<int64_t>(), "window"), " of ",
                                   text["context"].get<int64_t>(), "\n");
  std::vector<std::vector<std::string>> rows = {{"FORMAT", "PERPLEXITY"}};
  rows.push_back({told["format"].get<std::string>(), Rounded("%.4f", text["perplexity"])});
  if (told["reference"].is_null()) return table + FormatTable(rows);
  rows.push_back(
      {told["reference"].get<std::string>(), Rounded("%.4f", text["reference_perplexity"])});
  rows.front().insert(rows.front().end(),
                      {"RATIO", "KL, NATS A TOKEN", "P99", "SAME FIRST CHOICE"});
  rows[1].insert(rows[1].end(),
                 {Rounded("%.5f", text["perplexity_ratio"]), Rounded("%.3g", text["mean_kl_nats"]),
                  Rounded("%.3g", text["p99_kl_nats"]), Percent(text["same_argmax_ratio"])});
  rows[2].insert(rows[2].end(), {"1", "", "", ""});
  return table + FormatTable(rows);
}

std::string ExamLine(const nlohmann::json& told) {
  const nlohmann::json& exam = told["exam"];
  std::string line = absl::StrCat("exam: ", exam["right"].get<int64_t>(), " of ",
                                  Count(exam["questions"].get<int64_t>(), "answer"), " right in ",
                                  told["format"].get<std::string>());
  if (!exam["reference_right"].is_null()) {
    absl::StrAppend(&line, ", ", exam["reference_right"].get<int64_t>(), " in ",
                    told["reference"].get<std::string>());
  }
  return line + "\n";
}

std::string WeightsTable(const nlohmann::json& weights) {
  std::vector<std::vector<std::string>> rows = {
      {"WEIGHTS", "TENSORS", "RELATIVE ERROR", "OF THE WORST", ""}};
  for (const nlohmann::json& kind : weights["kinds"]) {
    rows.push_back({kind["kind"].get<std::string>(), absl::StrCat(kind["tensors"].get<int64_t>()),
                    Percent(kind["relative_error"]), Percent(kind["worst_relative_error"]),
                    kind["worst_tensor"].get<std::string>()});
  }
  return FormatTable(rows);
}

}  // namespace

std::string EvaluationTable(const nlohmann::json& told) {
  std::string table = absl::StrCat(
      told["model"].get<std::string>(), " in ", told["format"].get<std::string>(),
      told["reference"].is_null() ? ", without a reference: --checkpoint names it"
                                  : absl::StrCat(" against ", told["reference"].get<std::string>()),
      "\n");
  if (!told["text"].is_null()) absl::StrAppend(&table, "\n", TextTable(told));
  if (!told["exam"].is_null()) absl::StrAppend(&table, "\n", ExamLine(told));
  if (!told["weights"].is_null()) absl::StrAppend(&table, "\n", WeightsTable(told["weights"]));
  return table;
}

}  // namespace conclave::cli

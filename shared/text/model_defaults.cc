#include "shared/text/model_defaults.h"

#include <algorithm>
#include <cmath>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "shared/base/json_file.h"
#include "shared/base/status_macros.h"
#include "shared/text/sampling_ranges.h"
#include "shared/weights/model_files.h"

namespace conclave::text {

namespace {

using nlohmann::json;

absl::Status Malformed(const std::string& path, const char* field, const json& found,
                       const std::string& wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": ", field, " is ",
                   found.dump(-1, ' ', false, json::error_handler_t::replace).substr(0, 100),
                   ", expected ", wanted, "; correct the file"));
}

absl::Status ReadNumber(const json& config, const std::string& path, const char* field,
                        std::optional<double>* value) {
  const auto found = config.find(field);
  if (found == config.end() || found->is_null()) return absl::OkStatus();
  if (!found->is_number()) return Malformed(path, field, *found, "a number");
  *value = found->get<double>();
  return absl::OkStatus();
}

// Beyond all vocabularies and contexts, and exact as a double.
constexpr double kMostCount = 1e12;

absl::Status ReadCount(const json& config, const std::string& path, const char* field,
                       std::optional<int64_t>* value) {
  std::optional<double> number;
  RETURN_IF_ERROR(ReadNumber(config, path, field, &number));
  if (!number) return absl::OkStatus();
  if (std::abs(*number) > kMostCount || std::trunc(*number) != *number) {
    return Malformed(path, field, config.at(field), "a whole number");
  }
  *value = static_cast<int64_t>(*number);
  return absl::OkStatus();
}

// Both files' ids are checked, even where the first one's are taken: a checkpoint that contradicts
// itself is not served. `vocab_size` 0: unknown.
absl::Status ReadEos(const json& config, const std::string& path, int64_t vocab_size,
                     std::vector<int32_t>* ids) {
  const auto found = config.find("eos_token_id");
  if (found == config.end() || found->is_null()) return absl::OkStatus();
  const json list = found->is_array() ? *found : json::array({*found});
  std::vector<int32_t> read;
  for (const json& id : list) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX) {
      return Malformed(path, "eos_token_id", *found, "an id or an array of ids");
    }
    if (vocab_size > 0 && id.get<int64_t>() >= vocab_size) {
      return absl::InvalidArgumentError(absl::StrCat(
          path, ": eos_token_id has ", id.get<int64_t>(), ", but the vocabulary ends at ",
          vocab_size - 1, " (config.json, vocab_size ", vocab_size,
          "): no token would ever end an answer; correct the file, or take it from the checkpoint"
          " that these weights belong to"));
    }
    read.push_back(id.get<int32_t>());
  }
  if (ids->empty()) *ids = std::move(read);
  return absl::OkStatus();
}

// A default outside what a request may ask for would fail each request that does not set its own.
struct NumberDefault {
  const char* field;
  std::optional<double> ModelDefaults::*value;
  Range range;
};

constexpr NumberDefault kNumberDefaults[] = {
    {"temperature", &ModelDefaults::temperature, kTemperatureRange},
    {"top_p", &ModelDefaults::top_p, kTopPRange},
    {"min_p", &ModelDefaults::min_p, kMinPRange},
    {"repetition_penalty", &ModelDefaults::repetition_penalty, kRepetitionPenaltyRange},
};

struct CountDefault {
  const char* field;
  std::optional<int64_t> ModelDefaults::*value;
  int64_t low;
};

constexpr CountDefault kCountDefaults[] = {
    {"top_k", &ModelDefaults::top_k, -1},
    {"max_new_tokens", &ModelDefaults::max_new_tokens, 1},
};

absl::Status ReadSampling(const json& config, const std::string& path, ModelDefaults& defaults) {
  for (const NumberDefault& each : kNumberDefaults) {
    std::optional<double>& value = defaults.*each.value;
    RETURN_IF_ERROR(ReadNumber(config, path, each.field, &value));
    if (!value || each.range.Holds(*value)) continue;
    return Malformed(path, each.field, config.at(each.field),
                     absl::StrCat("a number in ", each.range.low_open ? "(" : "[", each.range.low,
                                  ", ", each.range.high, "]"));
  }
  for (const CountDefault& each : kCountDefaults) {
    std::optional<int64_t>& value = defaults.*each.value;
    RETURN_IF_ERROR(ReadCount(config, path, each.field, &value));
    if (value && (*value < each.low || *value > INT32_MAX)) {
      return Malformed(path, each.field, config.at(each.field),
                       absl::StrCat("a whole number from ", each.low, " to ", INT32_MAX));
    }
  }
  if (defaults.top_k == -1) defaults.top_k = 0;  // both are written for "all"
  const auto sample = config.find("do_sample");
  if (sample != config.end() && *sample == false) defaults.temperature = 0;
  return absl::OkStatus();
}

absl::StatusOr<json> ReadObject(const weights::ModelFiles& model, const std::string& name) {
  ASSIGN_OR_RETURN(const std::string text, model.Read(name, kMaxJsonFileBytes));
  const std::string path = model.PathOf(name);
  ASSIGN_OR_RETURN(json config, ParseJson(path, text));
  if (!config.is_object()) return Malformed(path, "the file", config, "a JSON object");
  return config;
}

}  // namespace

absl::StatusOr<ModelDefaults> LoadModelDefaults(const std::filesystem::path& path,
                                                std::optional<int32_t> tokenizer_eos) {
  ASSIGN_OR_RETURN(const weights::ModelFiles model, weights::ModelFiles::Open(path));
  ModelDefaults defaults;
  const std::string generation_path = model.PathOf("generation_config.json");
  absl::StatusOr<json> generation = ReadObject(model, "generation_config.json");
  if (generation.ok()) {
    RETURN_IF_ERROR(ReadSampling(*generation, generation_path, defaults));
  } else if (!absl::IsNotFound(generation.status())) {
    return generation.status();
  }
  const std::string config_path = model.PathOf("config.json");
  ASSIGN_OR_RETURN(const json config, ReadObject(model, "config.json"));
  std::optional<int64_t> vocab_size;
  RETURN_IF_ERROR(ReadCount(config, config_path, "vocab_size", &vocab_size));
  defaults.vocab_size = vocab_size.value_or(0);
  if (generation.ok()) {
    RETURN_IF_ERROR(ReadEos(*generation, generation_path, defaults.vocab_size, &defaults.eos_ids));
  }
  RETURN_IF_ERROR(ReadEos(config, config_path, defaults.vocab_size, &defaults.eos_ids));
  if (defaults.eos_ids.empty() && tokenizer_eos) defaults.eos_ids.push_back(*tokenizer_eos);
  std::sort(defaults.eos_ids.begin(), defaults.eos_ids.end());
  return defaults;
}

}  // namespace conclave::text

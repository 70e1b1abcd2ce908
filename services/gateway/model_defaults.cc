#include "services/gateway/model_defaults.h"

#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "shared/base/json_file.h"
#include "shared/base/status_macros.h"

namespace conclave::gateway {

namespace {

using nlohmann::json;

absl::Status Malformed(const std::string& path, const char* field, const json& found,
                       const char* wanted) {
  return absl::InvalidArgumentError(
      absl::StrCat(path, ": ", field, " is ", found.dump().substr(0, 100), ", expected ", wanted));
}

absl::Status ReadNumber(const json& config, const std::string& path, const char* field,
                        std::optional<double>* value) {
  const auto found = config.find(field);
  if (found == config.end() || found->is_null()) return absl::OkStatus();
  if (!found->is_number()) return Malformed(path, field, *found, "a number");
  *value = found->get<double>();
  return absl::OkStatus();
}

absl::Status ReadEos(const json& config, const std::string& path, std::vector<int32_t>* ids) {
  const auto found = config.find("eos_token_id");
  if (found == config.end() || found->is_null() || !ids->empty()) return absl::OkStatus();
  const json list = found->is_array() ? *found : json::array({*found});
  for (const json& id : list) {
    if (!id.is_number_integer() || id.get<int64_t>() < 0 || id.get<int64_t>() > INT32_MAX) {
      return Malformed(path, "eos_token_id", *found, "an id or an array of ids");
    }
    ids->push_back(id.get<int32_t>());
  }
  return absl::OkStatus();
}

absl::StatusOr<json> ReadObject(const std::string& path) {
  ASSIGN_OR_RETURN(json config, ReadJsonFile(path));
  if (!config.is_object()) return Malformed(path, "the file", config, "a JSON object");
  return config;
}

}  // namespace

absl::StatusOr<ModelDefaults> LoadModelDefaults(const std::filesystem::path& model_dir,
                                                std::optional<int32_t> tokenizer_eos) {
  ModelDefaults defaults;
  const std::string generation_path = model_dir / "generation_config.json";
  absl::StatusOr<json> generation = ReadObject(generation_path);
  if (generation.ok()) {
    RETURN_IF_ERROR(ReadNumber(*generation, generation_path, "temperature", &defaults.temperature));
    RETURN_IF_ERROR(ReadNumber(*generation, generation_path, "top_p", &defaults.top_p));
    RETURN_IF_ERROR(ReadNumber(*generation, generation_path, "min_p", &defaults.min_p));
    RETURN_IF_ERROR(ReadNumber(*generation, generation_path, "repetition_penalty",
                               &defaults.repetition_penalty));
    std::optional<double> top_k;
    RETURN_IF_ERROR(ReadNumber(*generation, generation_path, "top_k", &top_k));
    if (top_k) defaults.top_k = static_cast<int64_t>(*top_k);
    std::optional<double> max_new_tokens;
    RETURN_IF_ERROR(ReadNumber(*generation, generation_path, "max_new_tokens", &max_new_tokens));
    if (max_new_tokens && *max_new_tokens >= 1)
      defaults.max_new_tokens = static_cast<int64_t>(*max_new_tokens);
    const auto sample = generation->find("do_sample");
    if (sample != generation->end() && *sample == false) defaults.temperature = 0;
    RETURN_IF_ERROR(ReadEos(*generation, generation_path, &defaults.eos_ids));
  } else if (!absl::IsNotFound(generation.status())) {
    return generation.status();
  }
  const std::string config_path = model_dir / "config.json";
  ASSIGN_OR_RETURN(const json config, ReadObject(config_path));
  RETURN_IF_ERROR(ReadEos(config, config_path, &defaults.eos_ids));
  std::optional<double> vocab_size;
  RETURN_IF_ERROR(ReadNumber(config, config_path, "vocab_size", &vocab_size));
  if (vocab_size) defaults.vocab_size = static_cast<int64_t>(*vocab_size);
  if (defaults.eos_ids.empty() && tokenizer_eos) defaults.eos_ids.push_back(*tokenizer_eos);
  std::sort(defaults.eos_ids.begin(), defaults.eos_ids.end());
  return defaults;
}

}  // namespace conclave::gateway

#include "shared/weights/model_families.h"

#include <algorithm>
#include <array>
#include <iterator>
#include <set>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "shared/weights/config_fields.h"

namespace conclave::weights {
namespace {

struct FamilyRow {
  ModelFamily family;
  std::string_view name;
};

constexpr std::array kFamilies = {
    FamilyRow{ModelFamily::kDeepseekV2, "deepseek_v2"},
    FamilyRow{ModelFamily::kDeepseekV3, "deepseek_v3"},
    FamilyRow{ModelFamily::kMixtral, "mixtral"},
    FamilyRow{ModelFamily::kQwen2Moe, "qwen2_moe"},
    FamilyRow{ModelFamily::kQwen3Moe, "qwen3_moe"},
    FamilyRow{ModelFamily::kOlmoe, "olmoe"},
};

// Mixture-of-Experts families whose layers differ from those above.
constexpr std::string_view kOtherMoe[] = {
    "afmoe",
    "arctic",
    "bailing_moe",
    "cohere2_moe",
    "dbrx",
    "deepseek",
    "deepseek_v32",
    "deepseek_v4",
    "dots1",
    "ernie4_5_moe",
    "exaone_moe",
    "flex_olmo",
    "glm4_moe",
    "glm4_moe_lite",
    "glm4v_moe",
    "glm_moe_dsa",
    "gpt_oss",
    "granitemoe",
    "granitemoehybrid",
    "granitemoeshared",
    "grok",
    "hunyuan_v1_moe",
    "jamba",
    "jetmoe",
    "kimi_k2",
    "kimi_k25",
    "kimi_linear",
    "lfm2_moe",
    "llama4",
    "llama4_text",
    "longcat_flash",
    "mimo_v2_flash",
    "minimax",
    "minimax_m2",
    "mistral4",
    "nllb_moe",
    "phimoe",
    "qwen3_5_moe",
    "qwen3_next",
    "qwen3_omni_moe",
    "qwen3_vl_moe",
    "solar_open",
    "switch_transformers",
};

constexpr std::string_view kDense[] = {
    "apertus",    "arcee",     "bloom",       "codegen", "cohere",      "cohere2", "exaone4",
    "falcon",     "gemma",     "gemma2",      "gemma3",  "gemma3_text", "gemma3n", "glm",
    "glm4",       "gpt2",      "gpt_bigcode", "gpt_neo", "gpt_neox",    "gptj",    "granite",
    "helium",     "internlm2", "internlm3",   "llama",   "ministral",   "mistral", "mistral3",
    "mpt",        "nemotron",  "olmo",        "olmo2",   "olmo3",       "opt",     "persimmon",
    "phi",        "phi3",      "qwen2",       "qwen3",   "seed_oss",    "smollm3", "stablelm",
    "starcoder2",
};

template <typename Names>
bool Contains(const Names& names, std::string_view name) {
  return std::find(std::begin(names), std::end(names), name) != std::end(names);
}

}  // namespace

std::string_view ModelFamilyName(ModelFamily family) {
  for (const FamilyRow& row : kFamilies) {
    if (row.family == family) return row.name;
  }
  return "unknown";
}

std::string SupportedFamiliesText() {
  return absl::StrJoin(kFamilies, ", ", [](std::string* out, const FamilyRow& row) {
    absl::StrAppend(out, std::string(row.name));
  });
}

absl::StatusOr<ModelFamily> ParseModelFamily(std::string_view model_type, std::string_view where) {
  std::set<std::string, std::less<>> names;
  for (const FamilyRow& row : kFamilies) {
    if (row.name == model_type) return row.family;
    names.emplace(row.name);
  }
  const std::string subject =
      absl::StrCat(std::string(where), ": model_type is \"", std::string(model_type), "\", ");
  const std::string remedy =
      absl::StrCat("; supported are ", SupportedFamiliesText(), " (docs/models.md)");
  if (Contains(kDense, model_type)) {
    return absl::UnimplementedError(
        absl::StrCat(subject,
                     "a dense model, which has no experts to distribute; use a Mixture-of-Experts "
                     "checkpoint",
                     remedy));
  }
  if (Contains(kOtherMoe, model_type)) {
    return absl::UnimplementedError(
        absl::StrCat(subject, "a Mixture-of-Experts family that is not supported yet", remedy));
  }
  const std::string nearest = NearestName(model_type, names);
  return absl::UnimplementedError(
      absl::StrCat(subject, "an unknown family",
                   nearest.empty() ? "" : absl::StrCat(" (did you mean ", nearest, "?)"), remedy));
}

}  // namespace conclave::weights

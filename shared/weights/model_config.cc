#include "shared/weights/model_config.h"

#include <algorithm>
#include <cstdio>
#include <system_error>

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"
#include "shared/weights/config_fields.h"
#include "shared/weights/family_config.h"
#include "shared/weights/json_file.h"
#include "shared/weights/model_families.h"
#include "shared/weights/model_files.h"
#include "shared/weights/quantization_config.h"
#include "shared/weights/rope_config.h"

namespace conclave::weights {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxConfigBytes = 16 << 20;
// The largest open models have some 25 000 experts in all layers; this bounds the tensor table.
constexpr int64_t kMaxExpertsInAllLayers = 1 << 18;

// Fields of all families that say how a model was trained, saved or is to be used as a library
// object, but not what it computes.
void ReadInertFields(ConfigFields& fields) {
  fields.Inert({"architectures",
                "auto_map",
                "_name_or_path",
                "name_or_path",
                "transformers_version",
                "transformers.js_config",
                "bos_token_id",
                "eos_token_id",
                "pad_token_id",
                "sep_token_id",
                "decoder_start_token_id",
                "use_cache",
                "initializer_range",
                "attention_dropout",
                "hidden_dropout",
                "output_router_logits",
                "router_aux_loss_coef",
                "router_jitter_noise",
                "output_attentions",
                "output_hidden_states",
                "return_dict",
                "use_return_dict",
                "pretraining_tp",
                "id2label",
                "label2id",
                "num_labels",
                "problem_type",
                "chunk_size_feed_forward",
                "finetuning_task",
                "task_specific_params",
                "tokenizer_class",
                "torchscript",
                "tie_encoder_decoder",
                "_attn_implementation",
                "_attn_implementation_autoset",
                "_experts_implementation",
                "attn_implementation",
                "pruned_heads",
                "unsloth_version",
                "unsloth_fixed"});
}

// What the file says of its weights' type; the tensors' own types are what counts.
std::string ReadStoredType(ConfigFields& fields) {
  const std::string old_name = fields.TextOr("torch_dtype", "");
  return fields.TextOr("dtype", old_name.empty() ? "bfloat16" : old_name);
}

// The file is missing: says what else is there.
absl::Status NoConfig(const fs::path& model_dir) {
  std::error_code error;
  if (!fs::is_directory(model_dir, error)) {
    return absl::NotFoundError(
        absl::StrCat(model_dir.string(), " is not a folder; give a checkpoint folder or org/name"));
  }
  for (fs::directory_iterator it(model_dir, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".gguf") {
      return absl::UnimplementedError(
          absl::StrCat(it->path().string(),
                       " is a GGUF file, which is not supported; use the original "
                       "safetensors checkpoint with its config.json (docs/models.md)"));
    }
  }
  return absl::NotFoundError(absl::StrCat(model_dir.string(),
                                          " has no config.json; is it a checkpoint folder in "
                                          "Hugging Face's format, completely downloaded?"));
}

}  // namespace

absl::StatusOr<ModelConfig> LoadModelConfig(const fs::path& model_dir, const ConfigOptions& options,
                                            std::vector<std::string>* warnings) {
  ASSIGN_OR_RETURN(const ModelFiles files, ModelFiles::Open(model_dir));
  if (!files.Has("config.json")) return NoConfig(model_dir);
  const std::string where = files.PathOf("config.json");
  ASSIGN_OR_RETURN(const std::string text, files.Read("config.json", kMaxConfigBytes));
  return ParseModelConfig(where, text, options, warnings);
}

absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& where, const std::string& text,
                                             const ConfigOptions& options,
                                             std::vector<std::string>* warnings) {
  ASSIGN_OR_RETURN(const nlohmann::json object, ParseJsonObject(where, text));
  ConfigFields fields(object, where);

  ModelConfig config;
  const std::string model_type = fields.TextOr("model_type", "");
  RETURN_IF_ERROR(fields.status());
  if (model_type.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": model_type is missing; supported are ", SupportedFamiliesText()));
  }
  ASSIGN_OR_RETURN(config.family, ParseModelFamily(model_type, where));
  config.stored_dtype = ReadStoredType(fields);
  ReadQuantization(fields, where, options.strict, warnings, config);

  config.vocab_size = static_cast<int32_t>(fields.Integer("vocab_size", {.max = 1 << 24}));
  config.hidden = static_cast<int32_t>(fields.Integer("hidden_size", {.max = 1 << 20}));
  config.num_layers = static_cast<int32_t>(fields.Integer("num_hidden_layers", {.max = 4096}));
  // A token of the prompt, and one of the answer.
  config.max_positions = fields.Integer("max_position_embeddings", {.min = 2});
  const bool default_1e5 =
      config.family == ModelFamily::kMixtral || config.family == ModelFamily::kOlmoe;
  config.norm_epsilon = fields.PositiveOr("rms_norm_eps", default_1e5 ? 1e-5 : 1e-6);
  config.tied_embeddings = fields.BoolOr("tie_word_embeddings", false);
  fields.OnlyText("hidden_act", {"silu", "swish"});
  fields.OnlyBool("is_encoder_decoder", false);
  fields.OnlyBool("add_cross_attention", false);
  if (fields.Has("layer_types")) {
    const nlohmann::json& types = fields.Raw("layer_types");
    if (!types.is_array() || !std::all_of(types.begin(), types.end(), [](const auto& type) {
          return type == "full_attention";
        })) {
      fields.Unsupported("layer_types", "\"full_attention\" for every layer");
    }
  }
  if (fields.Has("per_layer_config")) fields.Unsupported("per_layer_config", "null");
  RETURN_IF_ERROR(fields.status());

  const bool latent =
      config.family == ModelFamily::kDeepseekV2 || config.family == ModelFamily::kDeepseekV3;
  const RopeDefaults rope_defaults = {.theta = config.family == ModelFamily::kMixtral ? 1e6 : 1e4,
                                      .max_positions = config.max_positions,
                                      .latent = latent};
  const ParsedRope parsed = ReadRope(fields, where, rope_defaults, options.strict, warnings);
  config.rope = parsed.rope;
  if (latent) {
    ReadDeepseek(fields, parsed.score_scale, config);
  } else {
    ReadGrouped(fields, config);
  }
  if (int64_t{config.num_layers} * config.moe.num_experts > kMaxExpertsInAllLayers) {
    fields.Invalid("num_hidden_layers",
                   absl::StrCat("at most ", kMaxExpertsInAllLayers, " experts in all layers, not ",
                                int64_t{config.num_layers} * config.moe.num_experts));
  }
  ReadInertFields(fields);
  RETURN_IF_ERROR(fields.Finish(options.strict, warnings));

  if (std::find(config.ffn.begin(), config.ffn.end(), FfnKind::kMoe) == config.ffn.end()) {
    return absl::UnimplementedError(
        absl::StrCat(where,
                     ": no layer has experts, so this is a dense model; use a Mixture-of-Experts "
                     "checkpoint (docs/models.md)"));
  }
  const bool has_dense =
      std::find(config.ffn.begin(), config.ffn.end(), FfnKind::kDense) != config.ffn.end();
  if (has_dense && config.dense_intermediate == 0) {
    return absl::InvalidArgumentError(
        absl::StrCat(where, ": intermediate_size is missing, but some layers are dense"));
  }
  if (!has_dense) config.dense_intermediate = 0;
  return config;
}

std::string NormalisedConfigText(const ModelConfig& config) {
  std::string text;
  const auto add = [&text](const char* name, const std::string& value) {
    absl::StrAppend(&text, name, "=", value, "\n");
  };
  const auto integer = [&add](const char* name, int64_t value) { add(name, absl::StrCat(value)); };
  const auto number = [&add](const char* name, double value) {
    char digits[40];  // 17 digits give every double back
    std::snprintf(digits, sizeof(digits), "%.17g", value);
    add(name, digits);
  };

  add("family", std::string(ModelFamilyName(config.family)));
  integer("vocab_size", config.vocab_size);
  integer("hidden", config.hidden);
  integer("num_layers", config.num_layers);
  integer("dense_intermediate", config.dense_intermediate);
  number("norm_epsilon", config.norm_epsilon);
  integer("tied_embeddings", config.tied_embeddings);

  const AttentionConfig& attention = config.attention;
  integer("attention.kind", static_cast<int>(attention.kind));
  integer("attention.num_heads", attention.num_heads);
  integer("attention.num_kv_heads", attention.num_kv_heads);
  integer("attention.head_dim", attention.head_dim);
  integer("attention.qkv_bias", attention.qkv_bias);
  integer("attention.query_key_norm", static_cast<int>(attention.query_key_norm));
  number("attention.clip_qkv", attention.clip_qkv);
  integer("attention.window_tokens", attention.window_tokens);
  integer("attention.q_lora_rank", attention.q_lora_rank);
  integer("attention.kv_lora_rank", attention.kv_lora_rank);
  integer("attention.qk_nope_head_dim", attention.qk_nope_head_dim);
  integer("attention.qk_rope_head_dim", attention.qk_rope_head_dim);
  integer("attention.v_head_dim", attention.v_head_dim);
  number("attention.lora_norm_epsilon", attention.lora_norm_epsilon);
  number("attention.scale", attention.scale);

  const RopeConfig& rope = config.rope;
  integer("rope.kind", static_cast<int>(rope.kind));
  integer("rope.interleaved", rope.interleaved);
  number("rope.theta", rope.theta);
  number("rope.factor", rope.factor);
  number("rope.beta_fast", rope.beta_fast);
  number("rope.beta_slow", rope.beta_slow);
  integer("rope.original_max_positions", rope.original_max_positions);
  integer("rope.truncate", rope.truncate);
  number("rope.attention_factor", rope.attention_factor);

  const MoeConfig& moe = config.moe;
  integer("moe.num_experts", moe.num_experts);
  integer("moe.top_k", moe.top_k);
  integer("moe.intermediate", moe.intermediate);
  integer("moe.shared_intermediate", moe.shared_intermediate);
  integer("moe.shared_gate", moe.shared_gate);
  integer("moe.scoring", static_cast<int>(moe.scoring));
  integer("moe.groups", static_cast<int>(moe.groups));
  integer("moe.num_groups", moe.num_groups);
  integer("moe.top_groups", moe.top_groups);
  integer("moe.normalise", moe.normalise);
  number("moe.normalise_epsilon", moe.normalise_epsilon);
  number("moe.scale", moe.scale);
  integer("moe.correction_bias", moe.correction_bias);

  std::string ffn;
  for (FfnKind kind : config.ffn) ffn += kind == FfnKind::kMoe ? 'm' : 'd';
  add("ffn", ffn);
  return text;
}

}  // namespace conclave::weights

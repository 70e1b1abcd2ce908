#include "shared/weights/quantization_config.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace conclave::weights {
namespace {

constexpr int64_t kFp8Block = 128;

// What several writers of 4-bit weights say and no reader needs: how the weights were found, and
// which kernels some program takes for them. Which matrices they are, their tensors tell.
void ReadInertFields(ConfigFields& inner) {
  inner.Inert({"quant_method",
               "damp_percent",
               "damp_auto_increment",
               "static_groups",
               "true_sequential",
               "mse",
               "model_name_or_path",
               "model_file_base_name",
               "model_seqlen",
               "tokenizer",
               "dataset",
               "exllama_config",
               "use_exllama",
               "disable_exllama",
               "max_input_length",
               "use_cuda_fp16",
               "backend",
               "block_name_to_quantize",
               "modules_in_block_to_quantize",
               "modules_to_not_convert",
               "module_name_preceding_first_block",
               "batch_size",
               "pad_token_id",
               "cache_block_outputs",
               "lm_head",
               "meta",
               "uri",
               "offload_to_disk",
               "do_fuse",
               "fuse_max_seq_len",
               "modules_to_fuse"});
}

void OnlyEmpty(ConfigFields& inner, std::string_view name) {
  const nlohmann::json& value = inner.Raw(name);
  if (!value.is_null() && !value.empty()) inner.Unsupported(name, "null or nothing in it");
}

// Inputs that share a scale, -1 for all of a row, in which the kernels' groups fit.
int64_t ReadGroup(ConfigFields& inner) {
  const int64_t group = inner.IntegerOr("group_size", -1, {.min = -1});
  if (group == -1) return 0;
  if (group != 32 && group != 64 && (group == 0 || group % 128 != 0)) {
    inner.Unsupported("group_size", "32, 64, 128, a multiple of 128, or -1");
  }
  return group;
}

void ReadFp8(ConfigFields& inner, ModelConfig& config) {
  inner.OnlyText("fmt", {"e4m3"});
  inner.OnlyText("expert_dtype", {"fp8"});
  const std::vector<int64_t> block = inner.IntegersOr("weight_block_size", {});
  if (block != std::vector<int64_t>{kFp8Block, kFp8Block}) {
    inner.Unsupported("weight_block_size", "[128, 128]");
  }
  // Whether activations are quantised, and which modules are not, shows in other programs only:
  // here weights are dequantised at load, and each tensor's own type tells whether it has scales.
  inner.Inert({"activation_scheme", "modules_to_not_convert", "modules_to_convert", "scale_fmt",
               "dequantize", "ignored_layers"});
  config.fp8_block = kFp8Block;
  config.stored_dtype = "fp8";
}

void ReadGptq(ConfigFields& inner, ModelConfig& config) {
  inner.OnlyNumber("bits", 4);
  if (!inner.Has("bits")) inner.Unsupported("bits", "4");
  config.integers.group = ReadGroup(inner);
  config.integers.zeros = !inner.BoolOr("sym", true);
  // With one group a row its order does not matter.
  if (inner.BoolOr("desc_act", false) && config.integers.group != 0) {
    inner.Unsupported("desc_act", "false, or group_size -1; use a checkpoint without");
  }
  inner.OnlyText("checkpoint_format", {"gptq", "gptq_v2"});
  inner.OnlyText("format", {"gptq", "gptq_v2"});
  inner.OnlyText("pack_dtype", {"int32"});
  inner.OnlyText("quant_type", {"int4"});
  inner.OnlyBool("is_marlin_format", false);
  OnlyEmpty(inner, "dynamic");
  OnlyEmpty(inner, "adapter");
  const std::string format = inner.TextOr("checkpoint_format", inner.TextOr("format", "gptq"));
  config.integers.layout = format == "gptq_v2" ? IntegerLayout::kGptqV2 : IntegerLayout::kGptq;
}

void ReadAwq(ConfigFields& inner, ModelConfig& config) {
  if (!inner.Has("bits") && inner.Has("w_bit")) {
    inner.OnlyNumber("w_bit", 4);
  } else {
    inner.OnlyNumber("bits", 4);
    if (!inner.Has("bits")) inner.Unsupported("bits", "4");
  }
  config.integers.group = ReadGroup(inner);
  config.integers.zeros = true;
  inner.OnlyBool("zero_point", true);
  inner.OnlyText("backend", {"autoawq", "auto"});  // llm-awq lays tensors of these names out anew
  const std::string version = inner.TextOr("version", "gemm");
  if (version != "gemm" && version != "GEMM") inner.Unsupported("version", "\"gemm\"");
  config.integers.layout = IntegerLayout::kAwq;
}

// One of config_groups; `inner` is its "weights".
IntegerStorage ReadCompressedWeights(ConfigFields& inner) {
  IntegerStorage storage = {.layout = IntegerLayout::kCompressedTensors};
  inner.OnlyNumber("num_bits", 4);
  if (!inner.Has("num_bits")) inner.Unsupported("num_bits", "4");
  inner.OnlyText("type", {"int"});
  inner.OnlyText("strategy", {"group", "channel"});
  // Without a strategy, a group tells that there are groups.
  const nlohmann::json& group = inner.Raw("group_size");
  const bool has_group = !group.is_null() && group != -1;
  if (inner.TextOr("strategy", has_group ? "group" : "channel") == "group") {
    storage.group = ReadGroup(inner);
  } else {
    inner.Inert({"group_size"});
  }
  storage.zeros = !inner.BoolOr("symmetric", true);
  inner.OnlyBool("dynamic", false);
  // "weight" and "static" are orders in which weights were found; "group" is one of storage.
  const nlohmann::json& order = inner.Raw("actorder");
  if (!order.is_null() && order != "weight" && order != "static" && order != false) {
    inner.Unsupported("actorder", "null, \"weight\" or \"static\"; use a checkpoint without");
  }
  OnlyEmpty(inner, "block_structure");
  inner.Inert({"observer", "observer_kwargs", "scale_dtype", "zp_dtype"});
  return storage;
}

void ReadCompressed(ConfigFields& inner, const std::string& where, bool strict,
                    std::vector<std::string>* warnings, ModelConfig& config) {
  inner.OnlyText("format", {"pack-quantized"});
  inner.OnlyText("quantization_status", {"compressed", "frozen"});
  OnlyEmpty(inner, "kv_cache_scheme");
  OnlyEmpty(inner, "transform_config");
  const nlohmann::json& sparsity = inner.Raw("sparsity_config");
  if (!sparsity.is_null() && !sparsity.empty()) {
    const bool dense =
        sparsity.is_object() && sparsity.contains("format") && sparsity["format"] == "dense";
    if (!dense) inner.Unsupported("sparsity_config", "null, {} or format \"dense\"");
  }
  inner.Inert({"ignore", "global_compression_ratio", "version"});
  const nlohmann::json& groups = inner.Raw("config_groups");
  if (!groups.is_object() || groups.empty()) {
    inner.Invalid("config_groups", "an object with one group at least");
    return;
  }
  for (const auto& [name, group] : groups.items()) {
    const std::string place = absl::StrCat(where, ": quantization_config: ", name);
    if (!group.is_object() || !group.value("weights", nlohmann::json()).is_object()) {
      inner.Invalid("config_groups", "groups with an object \"weights\" each");
      return;
    }
    ConfigFields fields(group, place);
    OnlyEmpty(fields, "input_activations");
    OnlyEmpty(fields, "output_activations");
    fields.OnlyText("format", {"pack-quantized"});
    fields.Inert({"targets", "weights"});
    inner.Fail(fields.Finish(strict, warnings));
    ConfigFields weights(group["weights"], absl::StrCat(place, ": weights"));
    const IntegerStorage storage = ReadCompressedWeights(weights);
    inner.Fail(weights.Finish(strict, warnings));
    if (config.integers.layout != IntegerLayout::kNone && config.integers != storage) {
      inner.Unsupported("config_groups", "groups whose weights are all quantised alike");
    }
    config.integers = storage;
  }
}

}  // namespace

void ReadQuantization(ConfigFields& fields, const std::string& where, bool strict,
                      std::vector<std::string>* warnings, ModelConfig& config) {
  constexpr char kSupported[] =
      "no quantization_config (a BF16, F16 or F32 checkpoint), \"fp8\" with 128x128 blocks, and "
      "\"gptq\", \"awq\" and \"compressed-tensors\" with 4 bits";
  const nlohmann::json& object = fields.Raw("quantization_config");
  if (object.is_null()) return;
  if (!object.is_object()) {
    fields.Invalid("quantization_config", "an object or null");
    return;
  }
  ConfigFields inner(object, absl::StrCat(where, ": quantization_config"));
  const std::string method = inner.TextOr("quant_method", "");
  if (method == "fp8") {
    ReadFp8(inner, config);
  } else if (method == "gptq") {
    ReadGptq(inner, config);
  } else if (method == "awq") {
    ReadAwq(inner, config);
  } else if (method == "compressed-tensors") {
    ReadCompressed(inner, where, strict, warnings, config);
  } else if (inner.status().ok()) {
    fields.Fail(absl::UnimplementedError(
        absl::StrCat(where, ": quantization_config has quant_method \"", method,
                     "\", which is not supported; supported: ", kSupported,
                     "; use the original checkpoint of this model (docs/models.md)")));
    return;
  }
  if (config.integers.layout != IntegerLayout::kNone) {
    ReadInertFields(inner);
    config.stored_dtype = absl::StrCat("int4 (", method, ")");
  }
  fields.Fail(inner.Finish(strict, warnings));
}

}  // namespace conclave::weights

// The checks of `conclave doctor` that need a model's shape.
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/cli/checks.h"
#include "services/cli/hint.h"
#include "services/cli/table.h"
#include "shared/base/byte_size.h"
#include "shared/base/limits.h"
#include "shared/text/model_text.h"
#include "shared/weights/checkpoint.h"

namespace conclave::cli {
namespace {

// Beyond weights and KV cache: programs, tokenizer, activations of a step, messages.
constexpr int64_t kOtherBytes = int64_t{512} << 20;

// "30.5 B", "12.0 M"
std::string ShortCount(int64_t number) {
  char text[32];
  if (number >= 1'000'000'000) {
    std::snprintf(text, sizeof(text), "%.1f B", static_cast<double>(number) / 1e9);
  } else {
    std::snprintf(text, sizeof(text), "%.1f M", static_cast<double>(number) / 1e6);
  }
  return text;
}

// "48 layers x 128 experts", "5 layers, 4 of them with 16 experts"
std::string Layers(const weights::ModelConfig& config) {
  int moe_layers = 0;
  for (int32_t layer = 0; layer < config.num_layers; ++layer) moe_layers += config.IsMoe(layer);
  const std::string layers = Count(config.num_layers, "layer");
  if (moe_layers == config.num_layers) {
    return absl::StrCat(layers, " x ", config.moe.num_experts, " experts");
  }
  return absl::StrCat(layers, ", ", moe_layers, " of them with ", config.moe.num_experts,
                      " experts");
}

// Tokenizer, chat template and sampling defaults, by the code that the gateway loads them with.
Check CheckText(const std::filesystem::path& folder, const std::string& state_dir) {
  const auto text = text::LoadModelText(folder);
  if (!text.ok()) {
    return FailedCheck(
        "text", text.status(),
        "take tokenizer.json and its companions from the checkpoint's own repository");
  }
  Check check{.name = "text"};
  check.found = absl::StrCat(
      Count(text->tokenizer->vocab_size(), "token id"), ", ends at ",
      text->defaults.eos_ids.empty() ? "no token" : absl::StrJoin(text->defaults.eos_ids, " and "),
      "; ", text->chat_template->available() ? "a chat template" : "no chat template");
  if (!text->chat_template->available()) {
    check.verdict = Verdict::kWarn;
    check.remedy = absl::StrCat("completions work (", Hint("run --raw", state_dir),
                                "); chat needs a chat_template.jinja");
  } else if (text->defaults.eos_ids.empty()) {
    check.verdict = Verdict::kWarn;
    check.remedy = "answers end at max_tokens alone; set eos_token_id in generation_config.json";
  }
  return check;
}

}  // namespace

ModelSize SizeOf(const weights::ModelConfig& config) {
  const int64_t hidden = config.hidden;
  const weights::AttentionConfig& attention = config.attention;
  const int64_t heads = attention.num_heads;
  int64_t per_layer_attention = 0, kv = 0;
  if (attention.kind == weights::AttentionKind::kLatent) {
    const int64_t query = heads * (attention.qk_nope_head_dim + attention.qk_rope_head_dim);
    per_layer_attention =
        (attention.q_lora_rank > 0 ? attention.q_lora_rank * (hidden + query) : hidden * query) +
        hidden * (attention.kv_lora_rank + attention.qk_rope_head_dim) +
        int64_t{attention.kv_lora_rank} * heads *
            (attention.qk_nope_head_dim + attention.v_head_dim) +
        heads * attention.v_head_dim * hidden;
    kv = attention.kv_lora_rank + attention.qk_rope_head_dim;
  } else {
    const int64_t kv_width = int64_t{attention.num_kv_heads} * attention.head_dim;
    per_layer_attention = 2 * hidden * heads * attention.head_dim + 2 * hidden * kv_width;
    kv = 2 * kv_width;
  }
  ModelSize size;
  size.parameters = int64_t{config.vocab_size} * hidden * (config.tied_embeddings ? 1 : 2);
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    size.parameters += per_layer_attention;
    if (config.IsMoe(layer)) {
      const int64_t experts = 3 * hidden * config.moe.intermediate * config.moe.num_experts;
      size.expert_parameters += experts;
      size.parameters +=
          experts + hidden * config.moe.num_experts + 3 * hidden * config.moe.shared_intermediate;
    } else {
      size.parameters += 3 * hidden * config.dense_intermediate;
    }
  }
  size.kv_elements_per_token = kv * config.num_layers;
  return size;
}

Check CheckFits(const ModelSize& size, int64_t context_tokens, int64_t available_bytes,
                int64_t total_bytes, const std::string& numerics) {
  const int64_t element_bytes = numerics == "f32" ? 4 : 2;
  const int64_t weights = size.parameters * element_bytes;
  const int64_t kv = size.kv_elements_per_token * context_tokens * element_bytes;
  const int64_t needed = weights + kv + kOtherBytes;
  Check check{.name = "memory"};
  check.found = absl::StrCat("bf16 ", FormatBytes(size.parameters * 2), ", f32 ",
                             FormatBytes(size.parameters * 4), " (+ KV ", FormatBytes(kv), " at ",
                             context_tokens, " tokens); free ", FormatBytes(available_bytes),
                             " of ", FormatBytes(total_bytes));
  if (needed <= available_bytes) return check;
  // Engines and workers start as long as the weights fit, with as much KV cache as is left.
  const bool starts = weights <= available_bytes;
  check.verdict = starts ? Verdict::kWarn : Verdict::kFail;
  if (weights + kOtherBytes <= available_bytes && size.kv_elements_per_token > 0) {
    const int64_t fits =
        (available_bytes - weights - kOtherBytes) / (size.kv_elements_per_token * element_bytes);
    check.remedy = absl::StrCat("--engine-context ", fits, " fits, or free ",
                                FormatBytes(needed - available_bytes));
  } else if (numerics == "f32" && size.parameters * 2 + kOtherBytes <= available_bytes) {
    check.remedy = "--numerics bf16 takes half of it";
  } else if (starts) {
    check.remedy =
        absl::StrCat("free ", FormatBytes(needed - available_bytes),
                     " more: programs and messages take some ", FormatBytes(kOtherBytes));
  } else {
    check.remedy = absl::StrCat("free ", FormatBytes(needed - available_bytes),
                                " more, or put expert workers on other machines: ",
                                FormatBytes(size.expert_parameters * element_bytes),
                                " of the weights are experts (docs/two-machines.md)");
  }
  return check;
}

std::vector<Check> CheckModel(const Context& context) {
  const CommonOptions& common = context.options.common;
  const auto failed = [](const absl::Status& status) {
    return std::vector<Check>{FailedCheck("model", status, "docs/models.md lists what is served"),
                              CheckMemory()};
  };
  const auto folder = weights::ResolveModelDir(common.model);
  if (!folder.ok()) return failed(folder.status());
  const auto checkpoint =
      weights::Checkpoint::Open(*folder, {.config = {.strict = common.strict_config}});
  if (!checkpoint.ok()) return failed(checkpoint.status());
  const weights::ModelConfig& config = (*checkpoint)->config();
  if (context.options.engine.context > config.max_positions) {
    return failed(absl::InvalidArgumentError(
        absl::StrCat("engine.context is ", context.options.engine.context,
                     " and the model was made for at most ", config.max_positions,
                     " tokens; lower --engine-context")));
  }
  const ModelSize size = SizeOf(config);
  Check model{.name = "model"};
  model.found = absl::StrCat(std::string(weights::ModelFamilyName(config.family)), ", ",
                             ShortCount(size.parameters), " parameters, ", Layers(config),
                             ", stored as ", config.stored_dtype);
  if (!(*checkpoint)->warnings().empty()) {
    model.verdict = Verdict::kWarn;
    absl::StrAppend(&model.found, "; ", (*checkpoint)->warnings().front());
    model.remedy = "--strict-config refuses such a checkpoint";
  }
  const MemoryLimit limit = ReadMemoryLimit();
  const int64_t tokens =
      context.options.engine.context > 0 ? context.options.engine.context : config.max_positions;
  return {model, CheckText(*folder, context.state_dir),
          CheckFits(size, tokens, limit.available_bytes, limit.total_bytes, common.numerics)};
}

}  // namespace conclave::cli

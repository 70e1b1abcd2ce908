// The checks of `conclave doctor` that need a model's shape.
#include <cstdio>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/cli/checks.h"
#include "services/cli/fit_checks.h"
#include "services/cli/hint.h"
#include "services/cli/table.h"
#include "shared/base/limits.h"
#include "shared/model/served_model.h"
#include "shared/text/model_text.h"
#include "shared/weights/model_files.h"
#include "shared/weights/stored_model.h"

namespace conclave::cli {
namespace {

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

int64_t ParametersOf(const weights::ModelConfig& config) {
  const int64_t hidden = config.hidden;
  const weights::AttentionConfig& attention = config.attention;
  const int64_t heads = attention.num_heads;
  int64_t per_layer_attention = 0;
  if (attention.kind == weights::AttentionKind::kLatent) {
    const int64_t query = heads * (attention.qk_nope_head_dim + attention.qk_rope_head_dim);
    per_layer_attention =
        (attention.q_lora_rank > 0 ? attention.q_lora_rank * (hidden + query) : hidden * query) +
        hidden * (attention.kv_lora_rank + attention.qk_rope_head_dim) +
        int64_t{attention.kv_lora_rank} * heads *
            (attention.qk_nope_head_dim + attention.v_head_dim) +
        heads * attention.v_head_dim * hidden;
  } else {
    per_layer_attention = 2 * hidden * heads * attention.head_dim +
                          2 * hidden * attention.num_kv_heads * attention.head_dim;
  }
  int64_t parameters = int64_t{config.vocab_size} * hidden * (config.tied_embeddings ? 1 : 2);
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    parameters += per_layer_attention;
    if (config.IsMoe(layer)) {
      parameters += 3 * hidden * config.moe.intermediate * config.moe.num_experts +
                    hidden * config.moe.num_experts + 3 * hidden * config.moe.shared_intermediate;
    } else {
      parameters += 3 * hidden * config.dense_intermediate;
    }
  }
  return parameters;
}

std::vector<Check> CheckModel(const Context& context) {
  const CommonOptions& common = context.options.common;
  const auto failed = [](const absl::Status& status) {
    return std::vector<Check>{FailedCheck("model", status, "docs/models.md lists what is served"),
                              CheckMemory()};
  };
  const auto folder = weights::ResolveModel(common.model);
  if (!folder.ok()) return failed(folder.status());
  const auto stored = weights::OpenModel(*folder, {.strict = common.strict_config});
  if (!stored.ok()) return failed(stored.status());
  const auto formats = model::ChooseFormats(**stored, common.numerics);
  if (!formats.ok()) return failed(formats.status());
  const auto own = OwnFormats::Of(**stored, *formats);
  const weights::ModelConfig& config = (*stored)->config();
  if (context.options.engine.context > config.max_positions) {
    return failed(absl::InvalidArgumentError(
        absl::StrCat("engine.context is ", context.options.engine.context,
                     " and the model was made for at most ", config.max_positions,
                     " tokens; lower --engine-context")));
  }
  Check model{.name = "model"};
  model.found = absl::StrCat(std::string(weights::ModelFamilyName(config.family)), ", ",
                             ShortCount(ParametersOf(config)), " parameters, ", Layers(config),
                             ", stored as ", (*stored)->StoredAs(),
                             "; headers and shapes are read, values only by up");
  if (!(*stored)->warnings().empty()) {
    model.verdict = Verdict::kWarn;
    absl::StrAppend(&model.found, "; ", (*stored)->warnings().front());
    model.remedy = "--strict-config refuses such a checkpoint";
  }
  const MemoryLimit limit = ReadMemoryLimit();
  Check memory =
      CheckFits(DemandOf(config, context.options, own), limit.available_bytes, limit.total_bytes);
  if (memory.verdict != Verdict::kFail) {
    absl::Status fits = CheckExpertsFit(config, context.options, own);
    fits.Update(CheckKvFits(config, context.options, limit.available_bytes, own));
    if (!fits.ok()) memory = FailedCheck("memory", NameSource(fits, context.rows), "");
  }
  return {model, CheckText(*folder, context.state_dir), memory};
}

}  // namespace conclave::cli

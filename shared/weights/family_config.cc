#include "shared/weights/family_config.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/str_cat.h"

namespace conclave::weights {
namespace {

// Generous upper bounds that keep every product of two widths inside 64 bits and every width inside
// 32: the largest open model has 128 heads of 192 and 384 experts.
constexpr IntegerRange kHeads = {.min = 1, .max = 4096};
constexpr IntegerRange kHeadDim = {.min = 1, .max = 4096};
constexpr IntegerRange kRank = {.min = 1, .max = 65536};
constexpr IntegerRange kExperts = {.min = 1, .max = 65535};
constexpr IntegerRange kWidth = {.min = 1, .max = 1 << 22};
constexpr int64_t kMaxTopK = 64;  // kernels/gate.h

int32_t Narrow(int64_t value) { return static_cast<int32_t>(value); }

// A token sees itself and the sliding_window - 1 tokens before it. A window that is never reached
// changes nothing and counts as none.
int32_t ReadWindow(ConfigFields& fields, const ModelConfig& config) {
  const int64_t window = fields.IntegerOr("sliding_window", 0, {.min = 1, .max = int64_t{1} << 40});
  return window < config.max_positions ? Narrow(window) : 0;
}

void ReadLatentAttention(ConfigFields& fields, double score_scale, ModelConfig& config) {
  AttentionConfig& attention = config.attention;
  attention.kind = AttentionKind::kLatent;
  attention.num_heads = Narrow(fields.Integer("num_attention_heads", kHeads));
  if (fields.IntegerOr("num_key_value_heads", attention.num_heads, kHeads) != attention.num_heads) {
    fields.Invalid("num_key_value_heads",
                   absl::StrCat("num_attention_heads, ", attention.num_heads));
  }
  attention.num_kv_heads = 1;
  attention.q_lora_rank = Narrow(fields.IntegerOr("q_lora_rank", 0, kRank));
  attention.kv_lora_rank = Narrow(fields.Integer("kv_lora_rank", kRank));
  attention.qk_nope_head_dim = Narrow(fields.Integer("qk_nope_head_dim", kHeadDim));
  attention.qk_rope_head_dim = Narrow(fields.Integer("qk_rope_head_dim", kHeadDim));
  attention.v_head_dim = Narrow(fields.Integer("v_head_dim", kHeadDim));
  if (attention.qk_rope_head_dim % 2 != 0) fields.Invalid("qk_rope_head_dim", "an even number");
  const int32_t width = attention.qk_nope_head_dim + attention.qk_rope_head_dim;
  attention.scale = 1 / std::sqrt(static_cast<double>(width)) * score_scale;
  fields.OnlyBool("attention_bias", false);
  // Both follow from the widths above.
  fields.Inert({"head_dim", "qk_head_dim"});
}

void ReadDeepseekGroups(ConfigFields& fields, bool grouped, ModelConfig& config) {
  MoeConfig& moe = config.moe;
  if (!grouped) {
    fields.Inert({"n_group", "topk_group"});
    return;
  }
  moe.num_groups = Narrow(fields.Integer("n_group", kExperts));
  moe.top_groups = Narrow(fields.Integer("topk_group", {.min = 1, .max = moe.num_groups}));
  if (!fields.status().ok()) return;
  if (moe.num_experts % moe.num_groups != 0) {
    fields.Invalid("n_group", absl::StrCat("a divisor of n_routed_experts, ", moe.num_experts));
    return;
  }
  const int32_t group_size = moe.num_experts / moe.num_groups;
  if (moe.groups == ExpertGroups::kTopTwoSum && moe.num_groups > 1 && group_size < 2) {
    fields.Invalid("n_group", "groups of at least 2 experts, whose two best scores are summed");
  }
  if (moe.top_k > int64_t{group_size} * moe.top_groups) {
    fields.Invalid("num_experts_per_tok",
                   absl::StrCat("at most ", int64_t{group_size} * moe.top_groups,
                                ", the experts of topk_group groups"));
  }
  if (moe.num_groups == 1) moe.groups = ExpertGroups::kNone;
}

}  // namespace

int64_t ReadAliased(ConfigFields& fields, const std::vector<std::string>& names,
                    IntegerRange range) {
  std::string first;
  int64_t value = 0;
  for (const std::string& name : names) {
    if (!fields.Has(name)) continue;
    const int64_t read = fields.Integer(name, range);
    if (!first.empty() && read != value) {
      fields.Invalid(name, absl::StrCat("the same as ", first, ", ", value));
    }
    first = name;
    value = read;
  }
  return first.empty() ? fields.Integer(names.front(), range) : value;
}

void ReadTopK(ConfigFields& fields, ModelConfig& config) {
  config.moe.top_k =
      Narrow(fields.Integer("num_experts_per_tok", {.min = 1, .max = config.moe.num_experts}));
  if (config.moe.top_k > kMaxTopK) {
    fields.Unsupported("num_experts_per_tok", absl::StrCat("at most ", kMaxTopK));
  }
}

void ReadDeepseek(ConfigFields& fields, double score_scale, ModelConfig& config) {
  const bool v3 = config.family == ModelFamily::kDeepseekV3;
  ReadLatentAttention(fields, score_scale, config);
  config.rope.interleaved = v3 ? fields.BoolOr("rope_interleave", true) : true;

  MoeConfig& moe = config.moe;
  moe.num_experts = Narrow(
      ReadAliased(fields, {"n_routed_experts", "num_experts", "num_local_experts"}, kExperts));
  ReadTopK(fields, config);
  moe.intermediate = Narrow(fields.Integer("moe_intermediate_size", kWidth));
  const int64_t num_shared = fields.IntegerOr("n_shared_experts", 0, {.min = 0, .max = 64});
  if (num_shared * moe.intermediate > kWidth.max) {
    fields.Invalid("n_shared_experts", "a shared width of at most 4194304");
  }
  moe.shared_intermediate = Narrow(num_shared * moe.intermediate);
  moe.scale = fields.PositiveOr("routed_scaling_factor", v3 ? 2.5 : 1);

  bool grouped = true;
  if (v3) {
    moe.scoring = Scoring::kSigmoid;
    moe.groups = ExpertGroups::kTopTwoSum;
    moe.correction_bias = true;
    moe.normalise = fields.BoolOr("norm_topk_prob", true);
    moe.normalise_epsilon = moe.normalise ? 1e-20 : 0;
    fields.OnlyText("scoring_func", {"sigmoid"});
    fields.OnlyText("topk_method", {"noaux_tc"});
  } else {
    // transformers and DeepSeek's own code disagree on what true would mean; no checkpoint has it.
    fields.OnlyBool("norm_topk_prob", false);
    fields.OnlyBool("mlp_bias", false);
    fields.OnlyText("scoring_func", {"softmax"});
    fields.OnlyText("topk_method", {"greedy", "group_limited_greedy"});
    grouped = fields.TextOr("topk_method", "greedy") == "group_limited_greedy";
    moe.groups = grouped ? ExpertGroups::kMax : ExpertGroups::kNone;
  }
  ReadDeepseekGroups(fields, grouped, config);

  fields.OnlyNumber("moe_layer_freq", 1);
  const int64_t first_moe = fields.IntegerOr("first_k_dense_replace", v3 ? 3 : 0,
                                             {.min = 0, .max = config.num_layers - 1});
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    config.ffn.push_back(layer < first_moe ? FfnKind::kDense : FfnKind::kMoe);
  }
  config.dense_intermediate = Narrow(fields.IntegerOr("intermediate_size", 0, kWidth));
  for (const char* name : {"num_nextn_predict_layers", "num_mtp_layers"}) {
    config.num_mtp_layers =
        std::max(config.num_mtp_layers, Narrow(fields.IntegerOr(name, 0, {.min = 0, .max = 64})));
  }
  fields.Inert({"aux_loss_alpha", "seq_aux", "ep_size"});
}

void ReadGrouped(ConfigFields& fields, ModelConfig& config) {
  const ModelFamily family = config.family;
  const bool qwen = family == ModelFamily::kQwen2Moe || family == ModelFamily::kQwen3Moe;

  AttentionConfig& attention = config.attention;
  attention.kind = AttentionKind::kGrouped;
  attention.num_heads = Narrow(fields.Integer("num_attention_heads", kHeads));
  attention.num_kv_heads =
      Narrow(fields.IntegerOr("num_key_value_heads", attention.num_heads, kHeads));
  if (attention.num_heads % attention.num_kv_heads != 0) {
    fields.Invalid("num_key_value_heads",
                   absl::StrCat("a divisor of num_attention_heads, ", attention.num_heads));
  }
  if (!fields.Has("head_dim") && config.hidden % attention.num_heads != 0) {
    fields.Invalid("num_attention_heads", absl::StrCat("a divisor of hidden_size, ", config.hidden,
                                                       ", as head_dim is not given"));
  }
  attention.head_dim =
      Narrow(fields.IntegerOr("head_dim", config.hidden / attention.num_heads, kHeadDim));
  if (attention.head_dim < 2 || attention.head_dim % 2 != 0) {
    fields.Invalid("head_dim", absl::StrCat("an even number, not ", attention.head_dim));
  }
  attention.scale = 1 / std::sqrt(static_cast<double>(attention.head_dim));
  fields.OnlyBool("attention_bias", false);

  MoeConfig& moe = config.moe;
  moe.num_experts =
      Narrow(family == ModelFamily::kMixtral
                 ? ReadAliased(fields, {"num_local_experts", "num_experts"}, kExperts)
                 : ReadAliased(fields, {"num_experts", "num_local_experts"}, kExperts));
  ReadTopK(fields, config);
  moe.intermediate =
      Narrow(fields.Integer(qwen ? "moe_intermediate_size" : "intermediate_size", kWidth));

  std::vector<int64_t> dense_layers;
  int64_t sparse_step = 1;
  switch (family) {
    case ModelFamily::kMixtral:
      // The softmax over the chosen experts alone: over all of them, divided by the chosen sum.
      moe.normalise = true;
      attention.window_tokens = ReadWindow(fields, config);
      break;
    case ModelFamily::kOlmoe:
      moe.normalise = fields.BoolOr("norm_topk_prob", false);
      attention.query_key_norm = QueryKeyNorm::kFullWidth;
      attention.clip_qkv = fields.PositiveOr("clip_qkv", 0);
      if (int64_t{attention.num_heads} * attention.head_dim != config.hidden) {
        fields.Invalid("head_dim", "hidden_size / num_attention_heads");
      }
      break;
    default:
      moe.normalise = fields.BoolOr("norm_topk_prob", false);
      if (family == ModelFamily::kQwen2Moe) {
        attention.qkv_bias = fields.BoolOr("qkv_bias", true);
        moe.shared_intermediate = Narrow(fields.Integer("shared_expert_intermediate_size", kWidth));
        moe.shared_gate = true;
      } else {
        attention.query_key_norm = QueryKeyNorm::kPerHead;
      }
      dense_layers = fields.IntegersOr("mlp_only_layers", {});
      sparse_step = fields.IntegerOr("decoder_sparse_step", 1, {.min = 1, .max = 1 << 20});
      config.dense_intermediate = Narrow(fields.IntegerOr("intermediate_size", 0, kWidth));
      if (family == ModelFamily::kQwen2Moe) {
        fields.OnlyBool("use_sliding_window", false);  // true: in every other layer only
      } else if (fields.BoolOr("use_sliding_window", false)) {
        if (!fields.Has("sliding_window")) {
          fields.Invalid("sliding_window", "a number of tokens, as use_sliding_window is true");
        }
        attention.window_tokens = ReadWindow(fields, config);
      }
      fields.Inert({"sliding_window", "max_window_layers"});
  }
  for (int32_t layer = 0; layer < config.num_layers; ++layer) {
    const bool dense =
        std::find(dense_layers.begin(), dense_layers.end(), layer) != dense_layers.end() ||
        (layer + 1) % sparse_step != 0;
    config.ffn.push_back(dense ? FfnKind::kDense : FfnKind::kMoe);
  }
  for (int64_t layer : dense_layers) {
    if (layer < 0 || layer >= config.num_layers) {
      fields.Invalid("mlp_only_layers", absl::StrCat("layers from 0 to ", config.num_layers - 1));
    }
  }
}

}  // namespace conclave::weights

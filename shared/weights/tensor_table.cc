#include "shared/weights/tensor_table.h"

#include <utility>

#include "absl/strings/str_cat.h"

namespace conclave::weights {
namespace {

struct ExpertProjection {
  const char* name;          // canonical, and as most families store it
  const char* mixtral_name;  // as Mixtral stores it
  const char* stack_name;    // of the tensor with all experts, as transformers 5 saves it
};
constexpr ExpertProjection kGate = {"gate_proj", "w1", "gate_up_proj"};
constexpr ExpertProjection kUp = {"up_proj", "w3", "gate_up_proj"};
constexpr ExpertProjection kDown = {"down_proj", "w2", "down_proj"};

class TableBuilder {
 public:
  explicit TableBuilder(const ModelConfig& config) : config_(config) {}

  std::vector<TensorSpec> Build() {
    const int64_t hidden = config_.hidden;
    Plain(std::string(kEmbeddingName), {config_.vocab_size, hidden});
    for (int32_t layer = 0; layer < config_.num_layers; ++layer) {
      Layer(layer, "input_layernorm.weight", {hidden});
      Layer(layer, "post_attention_layernorm.weight", {hidden});
      if (config_.attention.kind == AttentionKind::kLatent) {
        LatentAttention(layer);
      } else {
        GroupedAttention(layer);
      }
      if (config_.IsMoe(layer)) {
        Moe(layer);
      } else {
        FeedForward(layer, "mlp", "mlp", config_.dense_intermediate);
      }
    }
    Plain(std::string(kFinalNormName), {hidden});
    if (!config_.tied_embeddings) Plain(std::string(kLmHeadName), {config_.vocab_size, hidden});
    return std::move(specs_);
  }

 private:
  void Plain(std::string name, std::vector<int64_t> shape) {
    specs_.push_back({name, std::move(shape), {name}, {}});
  }
  void Layer(int32_t layer, std::string_view rest, std::vector<int64_t> shape) {
    Plain(LayerTensorName(layer, rest), std::move(shape));
  }

  void LatentAttention(int32_t layer) {
    const AttentionConfig& a = config_.attention;
    const int64_t hidden = config_.hidden;
    const int64_t heads = a.num_heads;
    const int64_t query_width = heads * (a.qk_nope_head_dim + a.qk_rope_head_dim);
    if (a.q_lora_rank == 0) {
      Layer(layer, "self_attn.q_proj.weight", {query_width, hidden});
    } else {
      Layer(layer, "self_attn.q_a_proj.weight", {a.q_lora_rank, hidden});
      Layer(layer, "self_attn.q_a_layernorm.weight", {a.q_lora_rank});
      Layer(layer, "self_attn.q_b_proj.weight", {query_width, a.q_lora_rank});
    }
    Layer(layer, "self_attn.kv_a_proj_with_mqa.weight",
          {a.kv_lora_rank + a.qk_rope_head_dim, hidden});
    Layer(layer, "self_attn.kv_a_layernorm.weight", {a.kv_lora_rank});
    Layer(layer, "self_attn.kv_b_proj.weight",
          {heads * (a.qk_nope_head_dim + a.v_head_dim), a.kv_lora_rank});
    Layer(layer, "self_attn.o_proj.weight", {hidden, heads * a.v_head_dim});
  }

  void GroupedAttention(int32_t layer) {
    const AttentionConfig& a = config_.attention;
    const int64_t hidden = config_.hidden;
    const int64_t query_width = int64_t{a.num_heads} * a.head_dim;
    const int64_t key_width = int64_t{a.num_kv_heads} * a.head_dim;
    Layer(layer, "self_attn.q_proj.weight", {query_width, hidden});
    Layer(layer, "self_attn.k_proj.weight", {key_width, hidden});
    Layer(layer, "self_attn.v_proj.weight", {key_width, hidden});
    Layer(layer, "self_attn.o_proj.weight", {hidden, query_width});
    if (a.qkv_bias) {
      Layer(layer, "self_attn.q_proj.bias", {query_width});
      Layer(layer, "self_attn.k_proj.bias", {key_width});
      Layer(layer, "self_attn.v_proj.bias", {key_width});
    }
    if (a.query_key_norm != QueryKeyNorm::kNone) {
      const bool full = a.query_key_norm == QueryKeyNorm::kFullWidth;
      Layer(layer, "self_attn.q_norm.weight", {full ? query_width : a.head_dim});
      Layer(layer, "self_attn.k_norm.weight", {full ? key_width : a.head_dim});
    }
  }

  // A gated network under `canonical`, stored under `stored`.
  void FeedForward(int32_t layer, const std::string& canonical, const std::string& stored,
                   int64_t intermediate) {
    for (const ExpertProjection& projection : {kGate, kUp, kDown}) {
      const std::string rest = absl::StrCat(".", projection.name, ".weight");
      const bool down = projection.name == kDown.name;
      specs_.push_back({LayerTensorName(layer, canonical + rest),
                        down ? std::vector<int64_t>{config_.hidden, intermediate}
                             : std::vector<int64_t>{intermediate, config_.hidden},
                        {LayerTensorName(layer, stored + rest)},
                        {}});
    }
  }

  void Moe(int32_t layer) {
    const MoeConfig& moe = config_.moe;
    const bool mixtral = config_.family == ModelFamily::kMixtral;
    TensorSpec router = {LayerTensorName(layer, "mlp.gate.weight"),
                         {moe.num_experts, config_.hidden},
                         {LayerTensorName(layer, "mlp.gate.weight")},
                         {}};
    if (mixtral) {
      router.stored_names.push_back(LayerTensorName(layer, "block_sparse_moe.gate.weight"));
    }
    specs_.push_back(std::move(router));
    if (moe.correction_bias) Layer(layer, "mlp.gate.e_score_correction_bias", {moe.num_experts});
    if (moe.shared_intermediate > 0) {
      const bool qwen = config_.family == ModelFamily::kQwen2Moe;
      FeedForward(layer, "mlp.shared_experts", qwen ? "mlp.shared_expert" : "mlp.shared_experts",
                  moe.shared_intermediate);
    }
    if (moe.shared_gate) Layer(layer, "mlp.shared_expert_gate.weight", {1, config_.hidden});
    for (int32_t expert = 0; expert < moe.num_experts; ++expert) {
      for (const ExpertProjection& projection : {kGate, kUp, kDown}) {
        specs_.push_back(Expert(layer, expert, projection));
      }
    }
  }

  TensorSpec Expert(int32_t layer, int32_t expert, const ExpertProjection& projection) const {
    const int64_t hidden = config_.hidden;
    const int64_t intermediate = config_.moe.intermediate;
    const int64_t experts = config_.moe.num_experts;
    const bool mixtral = config_.family == ModelFamily::kMixtral;
    const bool down = projection.name == kDown.name;
    TensorSpec spec;
    spec.name = ExpertTensorName(layer, expert, projection.name);
    spec.shape = down ? std::vector<int64_t>{hidden, intermediate}
                      : std::vector<int64_t>{intermediate, hidden};
    spec.stored_names = {
        mixtral ? LayerTensorName(layer, absl::StrCat("block_sparse_moe.experts.", expert, ".",
                                                      projection.mixtral_name, ".weight"))
                : spec.name};
    // gate_up_proj has the rows of gate, then those of up.
    const std::vector<int64_t> stack_shape =
        down ? std::vector<int64_t>{experts, hidden, intermediate}
             : std::vector<int64_t>{experts, 2 * intermediate, hidden};
    const int64_t first_row = projection.name == kUp.name ? intermediate : 0;
    spec.slices.push_back(
        {LayerTensorName(layer, absl::StrCat("mlp.experts.", projection.stack_name)), stack_shape,
         expert, first_row});
    if (mixtral) {
      spec.slices.push_back(
          {LayerTensorName(layer, absl::StrCat("block_sparse_moe.experts.", projection.stack_name)),
           stack_shape, expert, first_row});
    }
    return spec;
  }

  const ModelConfig& config_;
  std::vector<TensorSpec> specs_;
};

}  // namespace

std::string LayerTensorName(int32_t layer, std::string_view rest) {
  return absl::StrCat("model.layers.", layer, ".", std::string(rest));
}

std::string ExpertTensorName(int32_t layer, int32_t expert, std::string_view projection) {
  return LayerTensorName(
      layer, absl::StrCat("mlp.experts.", expert, ".", std::string(projection), ".weight"));
}

std::vector<TensorSpec> TensorTable(const ModelConfig& config) {
  return TableBuilder(config).Build();
}

}  // namespace conclave::weights

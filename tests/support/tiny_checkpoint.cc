#include "tests/support/tiny_checkpoint.h"

#include <algorithm>
#include <cmath>
#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

#include "tests/support/safetensors_writer.h"

namespace conclave::testing {
namespace {

using nlohmann::json;

class TinyModel {
 public:
  TinyModel(std::string_view family, uint64_t seed) : random_(seed), family_(family) {
    deepseek_ = family == "deepseek_v2" || family == "deepseek_v3";
    DrawShape();
    if (deepseek_) {
      MakeDeepseek();
    } else {
      MakeGrouped();
    }
    const int vocab = config_["vocab_size"];
    AddMatrix("model.embed_tokens", vocab, hidden_);
    AddNorm("model.norm", hidden_);
    if (!config_["tie_word_embeddings"]) AddMatrix("lm_head", vocab, hidden_, 3.0);
  }

  void Write(const std::filesystem::path& dir) const {
    std::ofstream(dir / "config.json") << config_.dump(2);
    WriteSafetensors(dir / "model.safetensors", tensors_);
  }

 private:
  int Draw(int low, int high) {
    return low + static_cast<int>(random_() % static_cast<uint64_t>(high - low + 1));
  }
  bool Coin() { return Draw(0, 1) == 1; }
  float DrawUnit() { return static_cast<float>(Draw(-1'000'000, 1'000'000)) * 1e-6f; }

  // Uniform weights that keep the variance of a row, times `gain`.
  void AddMatrix(const std::string& name, int rows, int cols, double gain = 1.0) {
    const float range = static_cast<float>(gain * std::sqrt(3.0 / cols));
    AddTensor(name + ".weight", {rows, cols}, range, 0, true);
  }
  void AddNorm(const std::string& name, int size) {
    AddTensor(name + ".weight", {size}, 0.2f, 1, true);
  }
  void AddTensor(const std::string& name, std::vector<int64_t> shape, float range, float offset,
                 bool bf16) {
    TensorToWrite tensor{.name = name, .shape = std::move(shape), .bf16 = bf16, .values = {}};
    int64_t elements = 1;
    for (const int64_t size : tensor.shape) elements *= size;
    for (int64_t i = 0; i < elements; ++i) tensor.values.push_back(offset + range * DrawUnit());
    tensors_.push_back(std::move(tensor));
  }
  void AddFfn(const std::string& name, int intermediate) {
    AddMatrix(name + ".gate_proj", intermediate, hidden_);
    AddMatrix(name + ".up_proj", intermediate, hidden_);
    AddMatrix(name + ".down_proj", hidden_, intermediate, 2.0);
  }

  void DrawShape() {
    layers_ = Draw(2, 3);
    heads_ = Draw(1, 5);
    experts_ = Draw(1, 9);
    intermediate_ = Draw(5, 40);
    moe_intermediate_ = Draw(3, 34);
    hidden_ = Draw(15, 70);
    config_ = {{"model_type", family_},
               {"torch_dtype", "bfloat16"},
               {"vocab_size", Draw(37, 90)},
               {"num_hidden_layers", layers_},
               {"num_attention_heads", heads_},
               {"intermediate_size", intermediate_},
               {"hidden_act", "silu"},
               {"max_position_embeddings", 1024},
               {"rms_norm_eps", Coin() ? 1e-5 : 1e-6},
               {"rope_theta", Coin() ? 10000.0 : 1000000.0},
               {"tie_word_embeddings", Coin()}};
  }

  void MakeDeepseek() {
    const bool v3 = family_ == "deepseek_v3";
    const int groups = Draw(1, 3);
    const int per_group = groups == 1 ? Draw(1, 6) : Draw(2, 4);
    experts_ = groups * per_group;
    const int top_groups = Draw(1, groups);
    const int top_k = Draw(1, std::min(4, top_groups * per_group));
    const int rank = Draw(5, 40), nope = Draw(3, 20), rope = 2 * Draw(1, 9), value = Draw(3, 20);
    const int q_rank = Coin() ? Draw(5, 40) : 0;
    const int dense_layers = Draw(0, 1);
    const int shared = Draw(1, 2);
    config_.update(
        {{"hidden_size", hidden_},
         {"num_key_value_heads", heads_},
         {"kv_lora_rank", rank},
         {"q_lora_rank", q_rank == 0 ? json(nullptr) : json(q_rank)},
         {"qk_nope_head_dim", nope},
         {"qk_rope_head_dim", rope},
         {"v_head_dim", value},
         {"attention_bias", false},
         {"first_k_dense_replace", dense_layers},
         {"moe_layer_freq", 1},
         {"moe_intermediate_size", moe_intermediate_},
         {"n_routed_experts", experts_},
         {"n_shared_experts", shared},
         {"num_experts_per_tok", top_k},
         {"n_group", groups},
         {"topk_group", top_groups},
         {"routed_scaling_factor", Coin() ? 1.0 : 2.5},
         {"scoring_func", v3 ? "sigmoid" : "softmax"},
         {"topk_method", v3 ? "noaux_tc" : (groups > 1 ? "group_limited_greedy" : "greedy")},
         {"norm_topk_prob", v3}});
    if (Coin()) {
      config_["rope_scaling"] = {{"type", "yarn"},
                                 {"factor", 8.0},
                                 {"beta_fast", 32},
                                 {"beta_slow", 1},
                                 {"mscale", 0.707},
                                 {"mscale_all_dim", 0.707},
                                 {"original_max_position_embeddings", 128}};
    }
    for (int layer = 0; layer < layers_; ++layer) {
      const std::string prefix = LayerPrefix(layer);
      const std::string attention = prefix + "self_attn.";
      AddLayerNorms(prefix);
      if (q_rank == 0) {
        AddMatrix(attention + "q_proj", heads_ * (nope + rope), hidden_);
      } else {
        AddMatrix(attention + "q_a_proj", q_rank, hidden_);
        AddNorm(attention + "q_a_layernorm", q_rank);
        AddMatrix(attention + "q_b_proj", heads_ * (nope + rope), q_rank);
      }
      AddMatrix(attention + "kv_a_proj_with_mqa", rank + rope, hidden_);
      AddNorm(attention + "kv_a_layernorm", rank);
      AddMatrix(attention + "kv_b_proj", heads_ * (nope + value), rank);
      AddMatrix(attention + "o_proj", hidden_, heads_ * value);
      if (layer < dense_layers) {
        AddFfn(prefix + "mlp", intermediate_);
        continue;
      }
      AddExperts(prefix + "mlp");
      if (v3) AddTensor(prefix + "mlp.gate.e_score_correction_bias", {experts_}, 0.1f, 0.2f, false);
      AddFfn(prefix + "mlp.shared_experts", shared * moe_intermediate_);
    }
  }

  void MakeGrouped() {
    const bool full_heads = family_ == "olmoe";
    const int kv_heads = full_heads ? heads_ : Draw(1, 2);
    heads_ = full_heads ? heads_ : kv_heads * Draw(1, 3);
    const int head_dim = 2 * Draw(2, 9);
    if (family_ != "qwen3_moe")
      hidden_ = heads_ * head_dim;  // the others have no width of their own
    const int top_k = Draw(1, std::min(4, experts_));
    config_.update({{"hidden_size", hidden_},
                    {"num_attention_heads", heads_},
                    {"num_key_value_heads", kv_heads},
                    {"num_experts_per_tok", top_k}});
    config_[family_ == "mixtral" ? "num_local_experts" : "num_experts"] = experts_;
    const bool qwen = family_ == "qwen2_moe" || family_ == "qwen3_moe";
    if (!qwen) moe_intermediate_ = intermediate_;
    if (qwen) {
      config_.update({{"moe_intermediate_size", moe_intermediate_},
                      {"norm_topk_prob", Coin()},
                      {"decoder_sparse_step", 1},
                      {"mlp_only_layers", Coin() ? json::array({1}) : json::array()},
                      {"use_sliding_window", false}});
    }
    if (family_ == "mixtral" || family_ == "qwen3_moe") {
      const bool window = Coin();
      config_["sliding_window"] = window ? json(Draw(2, 60)) : json(nullptr);
      if (qwen) config_["use_sliding_window"] = window;
    }
    const int shared = Draw(4, 30);
    if (family_ == "qwen2_moe") config_["shared_expert_intermediate_size"] = shared;
    if (family_ == "qwen3_moe") config_["head_dim"] = head_dim;
    if (family_ == "olmoe") {
      config_["norm_topk_prob"] = Coin();
      if (Coin()) config_["clip_qkv"] = 0.75;
    }
    for (int layer = 0; layer < layers_; ++layer) {
      const std::string prefix = LayerPrefix(layer);
      const std::string attention = prefix + "self_attn.";
      AddLayerNorms(prefix);
      AddMatrix(attention + "q_proj", heads_ * head_dim, hidden_);
      AddMatrix(attention + "k_proj", kv_heads * head_dim, hidden_);
      AddMatrix(attention + "v_proj", kv_heads * head_dim, hidden_);
      AddMatrix(attention + "o_proj", hidden_, heads_ * head_dim);
      if (family_ == "qwen2_moe") {
        AddTensor(attention + "q_proj.bias", {heads_ * head_dim}, 0.5f, 0, true);
        AddTensor(attention + "k_proj.bias", {kv_heads * head_dim}, 0.5f, 0, true);
        AddTensor(attention + "v_proj.bias", {kv_heads * head_dim}, 0.5f, 0, true);
      }
      if (family_ == "qwen3_moe" || family_ == "olmoe") {
        const bool whole = family_ == "olmoe";
        AddNorm(attention + "q_norm", whole ? heads_ * head_dim : head_dim);
        AddNorm(attention + "k_norm", whole ? kv_heads * head_dim : head_dim);
      }
      if (qwen && std::ranges::find(config_["mlp_only_layers"], json(layer)) !=
                      config_["mlp_only_layers"].end()) {
        AddFfn(prefix + "mlp", intermediate_);
        continue;
      }
      AddExperts(prefix + (family_ == "mixtral" ? "block_sparse_moe" : "mlp"));
      if (family_ == "qwen2_moe") {
        AddFfn(prefix + "mlp.shared_expert", shared);
        AddMatrix(prefix + "mlp.shared_expert_gate", 1, hidden_);
      }
    }
  }

  static std::string LayerPrefix(int layer) {
    return "model.layers." + std::to_string(layer) + ".";
  }
  void AddLayerNorms(const std::string& prefix) {
    AddNorm(prefix + "input_layernorm", hidden_);
    AddNorm(prefix + "post_attention_layernorm", hidden_);
  }
  void AddExperts(const std::string& moe) {
    AddMatrix(moe + ".gate", experts_, hidden_);
    for (int expert = 0; expert < experts_; ++expert) {
      const std::string name = moe + ".experts." + std::to_string(expert);
      if (family_ == "mixtral") {
        AddMatrix(name + ".w1", moe_intermediate_, hidden_);
        AddMatrix(name + ".w3", moe_intermediate_, hidden_);
        AddMatrix(name + ".w2", hidden_, moe_intermediate_, 2.0);
      } else {
        AddFfn(name, moe_intermediate_);
      }
    }
  }

  std::mt19937_64 random_;
  std::string family_;
  bool deepseek_ = false;
  int layers_ = 0, heads_ = 0, hidden_ = 0, experts_ = 0, intermediate_ = 0, moe_intermediate_ = 0;
  json config_;
  std::vector<TensorToWrite> tensors_;
};

}  // namespace

void WriteTinyCheckpoint(std::string_view family, uint64_t seed, const std::filesystem::path& dir) {
  TinyModel(family, seed).Write(dir);
}

}  // namespace conclave::testing

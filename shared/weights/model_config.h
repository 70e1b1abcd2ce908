// The shape of a model, normalised: config.json of any supported family and of either transformers
// layout becomes one of these, and nothing above this folder asks for the family.
//
// Read once at load by engines, workers and the CLI. Links no kernels.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace conclave::weights {

enum class ModelFamily : uint8_t {
  kDeepseekV2,
  kDeepseekV3,
  kMixtral,
  kQwen2Moe,
  kQwen3Moe,
  kOlmoe
};

// The `model_type` of config.json: "deepseek_v2", ...
std::string_view ModelFamilyName(ModelFamily family);

enum class AttentionKind : uint8_t { kGrouped, kLatent };
// Where the query and key norms apply: nowhere, over each head's dimensions, or over the whole
// projected row.
enum class QueryKeyNorm : uint8_t { kNone, kPerHead, kFullWidth };
enum class Scoring : uint8_t { kSoftmax, kSigmoid };
enum class ExpertGroups : uint8_t { kNone, kMax, kTopTwoSum };
enum class RopeKind : uint8_t { kDefault, kLinear, kYarn };

struct RopeConfig {
  RopeKind kind = RopeKind::kDefault;
  bool interleaved = false;  // pairs (2i, 2i+1) in the checkpoint, else (i, i + rope_dim / 2)
  double theta = 10000;
  double factor = 1;  // linear, yarn
  // YaRN only.
  double beta_fast = 32, beta_slow = 1;
  int64_t original_max_positions = 0;
  bool truncate = true;
  double attention_factor =
      1;  // multiplies cos and sin, resolved from mscale / mscale_all_dim / attention_factor

  friend bool operator==(const RopeConfig&, const RopeConfig&) = default;
};

struct AttentionConfig {
  AttentionKind kind = AttentionKind::kGrouped;
  int32_t num_heads = 0;
  int32_t num_kv_heads = 0;  // latent: 1, the shared latent head
  int32_t head_dim = 0;      // grouped: query, key and value width of a head
  bool qkv_bias = false;
  QueryKeyNorm query_key_norm = QueryKeyNorm::kNone;
  double clip_qkv = 0;        // OLMoE: clamps q, k, v to [-clip_qkv, clip_qkv]; 0: off
  int32_t window_tokens = 0;  // 0: full attention
  // Latent only.
  int32_t q_lora_rank = 0;  // 0: queries are projected directly
  int32_t kv_lora_rank = 0;
  int32_t qk_nope_head_dim = 0;
  int32_t qk_rope_head_dim = 0;
  int32_t v_head_dim = 0;
  double lora_norm_epsilon = 1e-6;  // of q_a_layernorm and kv_a_layernorm
  double scale = 1;                 // of scores, YaRN's mscale included
};

struct MoeConfig {
  int32_t num_experts = 0;
  int32_t top_k = 0;
  int32_t intermediate = 0;         // of one routed expert
  int32_t shared_intermediate = 0;  // of the shared expert as one network; 0: none
  bool shared_gate = false;  // Qwen2-MoE: the shared expert's output is scaled by sigmoid(gate . x)
  Scoring scoring = Scoring::kSoftmax;
  ExpertGroups groups = ExpertGroups::kNone;
  int32_t num_groups = 1, top_groups = 1;
  bool normalise = false;
  double normalise_epsilon = 0;  // DeepSeek: 1e-20
  double scale = 1;              // routed_scaling_factor
  bool correction_bias = false;
};

// What a layer's feed-forward part is.
enum class FfnKind : uint8_t { kDense, kMoe };

// Matrices that somebody else has quantised to 4 bits, and in which order they are stored
// (shared/weights/integer_view.h).
enum class IntegerLayout : uint8_t { kNone, kGptq, kGptqV2, kAwq, kCompressedTensors };

struct IntegerStorage {
  IntegerLayout layout = IntegerLayout::kNone;
  int64_t group = 0;   // inputs that share a scale; 0: all of a row
  bool zeros = false;  // each group has a zero point; else it is 8

  friend bool operator==(const IntegerStorage&, const IntegerStorage&) = default;
};

struct ModelConfig {
  ModelFamily family = ModelFamily::kDeepseekV3;
  int32_t vocab_size = 0;
  int32_t hidden = 0;
  int32_t num_layers = 0;          // main layers; MTP layers are not counted
  int32_t num_mtp_layers = 0;      // recognised and skipped
  int32_t dense_intermediate = 0;  // of dense layers; 0 when there is none
  double norm_epsilon = 1e-6;
  int64_t max_positions = 0;  // the longest context the model was made for
  bool tied_embeddings = false;
  AttentionConfig attention;
  RopeConfig rope;
  MoeConfig moe;
  std::vector<FfnKind> ffn;  // [num_layers]
  // "bfloat16", "float16", "float32", "fp8", "int4 (gptq)": for messages only
  std::string stored_dtype;
  int32_t fp8_block = 0;    // 128 for FP8 checkpoints, else 0
  IntegerStorage integers;  // of the matrices that are stored as int4, whichever they are

  bool IsMoe(int32_t layer) const { return ffn[layer] == FfnKind::kMoe; }
};

struct ConfigOptions {
  bool strict = false;  // an unknown field is an error instead of one warning
};

// Reads and validates config.json of a folder or of a packed file. Errors: NOT_FOUND,
// INVALID_ARGUMENT (malformed, contradictory), UNIMPLEMENTED (dense model, unknown family,
// unsupported value of a field that changes the computation): each names the field or file, what
// was found, what is supported, and the remedy. Unknown fields are appended to `warnings`, one line
// each.
absl::StatusOr<ModelConfig> LoadModelConfig(const std::filesystem::path& model_dir,
                                            const ConfigOptions& options,
                                            std::vector<std::string>* warnings);

// The same of a config.json's text; `where` it is from is for messages.
absl::StatusOr<ModelConfig> ParseModelConfig(const std::string& where, const std::string& text,
                                             const ConfigOptions& options,
                                             std::vector<std::string>* warnings);

// The canonical text that the fingerprint covers: every field that changes the computation, in a
// fixed order.
std::string NormalisedConfigText(const ModelConfig& config);

}  // namespace conclave::weights

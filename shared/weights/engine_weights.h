// Everything of a model but its routed experts, in the kernels' order: what an engine holds.
//
// Built once at load; immutable and shared afterwards. Owns its memory, or keeps the packed file
// open that has it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "kernels/ffn.h"
#include "kernels/matrix.h"
#include "kernels/thread_pool.h"
#include "shared/weights/matrix_source.h"
#include "shared/weights/model_config.h"
#include "shared/weights/packed_buffer.h"
#include "shared/weights/stored_model.h"
#include "shared/weights/weight_formats.h"

namespace conclave::weights {

// Grouped-query attention. Biases and norms are f32 and empty where the family has none.
struct GroupedAttentionWeights {
  kernels::PackedMatrix q, k, v;  // [heads * head_dim, hidden], [kv_heads * head_dim, hidden] twice
  kernels::PackedMatrix o;        // [hidden, heads * head_dim]
  std::vector<float> q_bias, k_bias, v_bias;
  std::vector<float> q_norm, k_norm;  // [head_dim], or the full width
};

// Multi-head latent attention with kv_b kept as its two absorbed factors.
struct LatentAttentionWeights {
  kernels::PackedMatrix q_a;     // [q_lora_rank, hidden]; empty without query compression
  std::vector<float> q_a_norm;   // [q_lora_rank]
  kernels::PackedMatrix q_b;     // [heads * (nope + rope), q_lora_rank or hidden]
  kernels::PackedMatrix kv_a;    // [kv_lora_rank + rope, hidden]
  std::vector<float> kv_a_norm;  // [kv_lora_rank]
  std::vector<kernels::PackedMatrix> k_absorbed;  // per head [kv_lora_rank, nope]: W_UK transposed
  std::vector<kernels::PackedMatrix> v_absorbed;  // per head [v_head_dim, kv_lora_rank]: W_UV
  kernels::PackedMatrix o;                        // [hidden, heads * v_head_dim]
};

struct MoeLayerWeights {
  kernels::PackedMatrix router;        // f32 in every class: [num_experts, hidden]
  std::vector<float> correction_bias;  // [num_experts], or empty
  std::optional<kernels::FfnWeights> shared;
  kernels::PackedMatrix
      shared_gate;  // f32 in every class: [1, hidden]; empty unless MoeConfig::shared_gate
};

struct LayerWeights {
  std::vector<float> attention_norm;  // [hidden]
  std::vector<float> ffn_norm;        // [hidden]
  std::optional<GroupedAttentionWeights> grouped;
  std::optional<LatentAttentionWeights> latent;
  std::optional<kernels::FfnWeights> dense;
  std::optional<MoeLayerWeights> moe;
};

struct EngineWeights {
  ModelConfig config;
  kernels::NumericsClass numerics = kernels::NumericsClass::kBf16;
  // The embedding table, row-major in the class's type: bf16 [vocab][hidden] or f32.
  std::span<const std::byte> embedding;
  std::vector<LayerWeights> layers;
  std::vector<float> final_norm;
  kernels::PackedMatrix
      lm_head;  // [vocab_size, hidden]; a copy of the embedding in the kernels' order when tied
  // What the embedding and the matrices borrow from: memory of its own, or a packed file's.
  PackedBuffer buffer;
  std::shared_ptr<const PackedModel> mapped;

  // Widens the embedding rows of `ids` into output [ids.size(), hidden]. Ids are in range (checked
  // at the edge).
  void Embed(std::span<const int32_t> ids, kernels::MatrixView<float> output) const;
  size_t bytes = 0;   // of the embedding and all matrices
  KindErrors errors;  // of a row in 64 of each matrix; of a packed file, as it says
};

// EngineWeights::bytes, known from the config alone, so that memory can be checked before loading.
size_t EngineBytes(const ModelConfig& config, const WeightFormats& formats);

// Called from the loading thread with (bytes done, bytes in all), some times a layer at most; may
// be null.
using LoadProgress = std::function<void(int64_t done, int64_t total)>;

// Loads on the threads of `pool`; null: on the calling thread alone. The bits are the same.
absl::StatusOr<std::shared_ptr<const EngineWeights>> LoadEngineWeights(
    const StoredModel& model, const WeightFormats& formats, const LoadProgress& progress,
    kernels::ThreadPool* pool = nullptr);

// Called with the bytes that have been run.
using EngineProgress = std::function<void(int64_t done)>;

// Asks `source` for everything that an engine holds, layer by layer, in the one order that is also
// that of packed files, and runs it after the embedding, each layer and the LM head. What comes is
// put into `weights`. `progress` may be null.
absl::Status WalkEngine(const ModelConfig& config, const WeightFormats& formats,
                        MatrixSource& source, EngineWeights& weights,
                        const EngineProgress& progress);

}  // namespace conclave::weights

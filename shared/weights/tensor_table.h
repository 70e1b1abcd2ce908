// Every tensor that a model of a given config has, under one canonical name in all families, and
// the names and layouts in which files store it (docs/formats.md).
//
// Pure. Used by Checkpoint to check the files and by the loaders to name what they read.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "shared/weights/model_config.h"

namespace conclave::weights {

// A part of a tensor that holds all experts of a layer: rows [first_row, first_row + shape[0]) of
// element `index`.
struct StackSlice {
  std::string stored_name;            // "...experts.gate_up_proj"
  std::vector<int64_t> stored_shape;  // [experts, rows, columns]
  int64_t index = 0;
  int64_t first_row = 0;
};

struct TensorSpec {
  std::string name;                       // canonical
  std::vector<int64_t> shape;             // [outputs, inputs] or [elements]
  std::vector<std::string> stored_names;  // a file has exactly one of these,
  std::vector<StackSlice> slices;         // or one of these
};

// All tensors, MTP layers apart; the LM head only when it is not tied.
std::vector<TensorSpec> TensorTable(const ModelConfig& config);

inline constexpr std::string_view kEmbeddingName = "model.embed_tokens.weight";
inline constexpr std::string_view kFinalNormName = "model.norm.weight";
inline constexpr std::string_view kLmHeadName = "lm_head.weight";

// "model.layers.3.self_attn.q_proj.weight" for (3, "self_attn.q_proj.weight").
std::string LayerTensorName(int32_t layer, std::string_view rest);
// "model.layers.3.mlp.experts.7.up_proj.weight" for (3, 7, "up_proj").
std::string ExpertTensorName(int32_t layer, int32_t expert, std::string_view projection);

}  // namespace conclave::weights

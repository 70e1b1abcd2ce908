// What a checkpoint says about sampling: generation_config.json, and the end-of-sequence ids.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <vector>

#include "absl/status/statusor.h"

namespace conclave::text {

struct ModelDefaults {
  std::optional<double> temperature, top_p, min_p, repetition_penalty;
  std::optional<int64_t> top_k, max_new_tokens;
  std::vector<int32_t> eos_ids;  // ascending
  int64_t vocab_size = 0;        // rows of the embedding, by config.json; 0: it does not say
};

// Reads generation_config.json (may be missing) and config.json. `do_sample: false` there means
// greedy. End-of-sequence ids come from the first of generation_config.json, config.json,
// `tokenizer_eos` that has them, and must be rows of the embedding. INVALID_ARGUMENT names the file
// and the field that is malformed, or outside what a request may ask for.
absl::StatusOr<ModelDefaults> LoadModelDefaults(const std::filesystem::path& model_dir,
                                                std::optional<int32_t> tokenizer_eos);

}  // namespace conclave::text

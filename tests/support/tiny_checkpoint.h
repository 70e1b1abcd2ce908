// Random checkpoints of some ten thousand parameters, of every family, with dimensions that real
// models avoid: odd widths and head counts, one expert, three groups, a vocabulary that is no
// multiple of 16.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string_view>

namespace conclave::testing {

// The `model_type`s that are served.
inline constexpr std::string_view kFamilies[] = {"deepseek_v2", "deepseek_v3", "mixtral",
                                                 "qwen2_moe",   "qwen3_moe",   "olmoe"};

// Writes config.json and model.safetensors into `dir`, which exists. Dimensions and weights follow
// from the seed alone.
void WriteTinyCheckpoint(std::string_view family, uint64_t seed, const std::filesystem::path& dir);

}  // namespace conclave::testing

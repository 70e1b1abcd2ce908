// A checkpoint folder held in memory as the test's own reader sees it, to be changed and written
// elsewhere: the variants and the damage that the tests of shared/weights feed in.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"

namespace conclave::testing {

struct RawTensor {
  std::string dtype;
  std::vector<int64_t> shape;
  std::string data;

  size_t element_bytes() const;
  // Rows [begin, end) of the first dimension.
  RawTensor Rows(int64_t begin, int64_t end) const;
};

// f32 and bf16 tensors of given values.
RawTensor FloatTensor(std::vector<int64_t> shape, const std::vector<float>& values);
RawTensor Bf16Tensor(std::vector<int64_t> shape, const std::vector<float>& values);
// Values of a tensor of type F32, F16 or BF16.
std::vector<float> Values(const RawTensor& tensor);

using RawTensors = std::map<std::string, RawTensor>;

// Writes a safetensors file. Aborts when it cannot.
void WriteTensors(const std::filesystem::path& path, const RawTensors& tensors);
// Writes header length, header and data as they are.
void WriteRaw(const std::filesystem::path& path, uint64_t header_bytes, const std::string& header,
              const std::string& data);
void WriteText(const std::filesystem::path& path, const std::string& text);
std::string ReadText(const std::filesystem::path& path);

struct StoredCheckpoint {
  nlohmann::json config;
  RawTensors tensors;

  // Reads config.json and model.safetensors of a folder.
  static StoredCheckpoint Read(const std::filesystem::path& dir);

  // Writes config.json and model.safetensors.
  void Write(const std::filesystem::path& dir) const;
  // Writes config.json and `num_shards` files with an index; tensors are dealt out in turn.
  void WriteSharded(const std::filesystem::path& dir, int num_shards) const;

  void Rename(const std::string& from, const std::string& to);
};

// A folder of tests/golden.
std::filesystem::path GoldenDir(const std::string& name);

// The folders that hold weights.
inline constexpr const char* kGoldenModels[] = {
    "deepseek_v2_lite", "deepseek_v2_full", "deepseek_v3", "deepseek_v3_fp8",
    "mixtral",          "qwen2_moe",        "qwen3_moe",   "olmoe"};

// Turns the per-expert matrices of every layer into the stacks that transformers 5 saves:
// mlp.experts.gate_up_proj [experts, 2 * intermediate, hidden] and .down_proj.
void FuseExperts(StoredCheckpoint& checkpoint);

// Appends an MTP layer made of the last layer's tensors, as DeepSeek-V3 stores it.
void AddMtpLayer(StoredCheckpoint& checkpoint);

}  // namespace conclave::testing

// Writes small safetensors files: checkpoints that tests make up.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>
#include <vector>

namespace conclave::testing {

struct TensorToWrite {
  std::string name;
  std::vector<int64_t> shape;
  bool bf16 = true;  // else F32
  std::vector<float> values;
};

// Aborts when the file cannot be written.
void WriteSafetensors(const std::filesystem::path& path, const std::vector<TensorToWrite>& tensors);

}  // namespace conclave::testing

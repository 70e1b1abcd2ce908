#include "tests/support/safetensors_writer.h"

#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>

#include "kernels/bf16.h"

namespace conclave::testing {

void WriteSafetensors(const std::filesystem::path& path,
                      const std::vector<TensorToWrite>& tensors) {
  nlohmann::json header = nlohmann::json::object();
  std::string data;
  for (const TensorToWrite& tensor : tensors) {
    const size_t begin = data.size();
    for (const float value : tensor.values) {
      const uint16_t half = kernels::ToBf16(value).bits;
      if (tensor.bf16) {
        data.append(reinterpret_cast<const char*>(&half), sizeof half);
      } else {
        data.append(reinterpret_cast<const char*>(&value), sizeof value);
      }
    }
    header[tensor.name] = {{"dtype", tensor.bf16 ? "BF16" : "F32"},
                           {"shape", tensor.shape},
                           {"data_offsets", {begin, data.size()}}};
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t header_bytes = text.size();

  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(&header_bytes), sizeof header_bytes);
  file << text << data;
  file.close();
  if (!file) {
    std::cerr << "cannot write " << path << "\n";
    std::abort();
  }
}

}  // namespace conclave::testing

// Weights of a given shape drawn at random, for benchmarks of models whose weights are not at hand:
// the same values for the same config on every machine.
//
// Thread-safe.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>

#include "shared/weights/model_config.h"
#include "shared/weights/tensor_reader.h"

namespace conclave::weights {

class RandomTensors : public TensorReader {
 public:
  explicit RandomTensors(const ModelConfig& config);

  // Norms are 1, biases 0; elsewhere each row of K columns has variance 1 / K, so that activations
  // keep their size through the layers.
  void ReadRows(std::string_view name, int64_t first_row, int64_t num_rows,
                std::span<float> output) const override;
  std::string FileOf(std::string_view name) const override;
  void Forget(std::string_view) const override {}

  // As Checkpoint::Fingerprint: of config, formats and "random".
  std::string Fingerprint(std::string_view label) const;

 private:
  const ModelConfig& config_;
  std::map<std::string, int64_t, std::less<>> columns_;  // of each tensor; 1 of a vector
};

}  // namespace conclave::weights

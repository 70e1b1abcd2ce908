// Checkpoints whose matrices somebody has quantised to 4 bits, in the formats of GPTQ, AWQ and
// compressed-tensors, written by the test's own writer.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <string>
#include <vector>

#include "tests/weights/stored_checkpoint.h"

namespace conclave::testing {

enum class Int4Layout { kGptq, kGptqV2, kAwq, kCompressedTensors };
inline constexpr Int4Layout kInt4Layouts[] = {Int4Layout::kGptq, Int4Layout::kGptqV2,
                                              Int4Layout::kAwq, Int4Layout::kCompressedTensors};
std::string NameOf(Int4Layout layout);

struct Int4Options {
  Int4Layout layout = Int4Layout::kGptq;
  int64_t group = 32;  // -1: a scale a row
  bool zeros = true;   // AWQ: always
  bool half = true;    // scales F16, else BF16
};

// weight[n][k] = scales[n][k / group] * (integers[n][k] - zeros[n][k / group])
struct Int4Matrix {
  int64_t rows = 0, columns = 0;
  int64_t group = 0;   // of the checkpoint
  int64_t groups = 0;  // in a row
  std::vector<uint8_t> integers;
  std::vector<float> scales;
  std::vector<uint8_t> zeros;  // 8 everywhere without zero points

  float Value(int64_t row, int64_t column) const;
};

// Rounds each group to 16 steps from its smallest to its largest weight, or to 15 around zero.
Int4Matrix ToInt4(const std::vector<float>& values, int64_t rows, int64_t columns,
                  const Int4Options& options);

// The quantization_config of such a checkpoint.
nlohmann::json Int4Config(const Int4Options& options);

// Puts the parts of `matrix` in the place of the tensor `name`, which ends in ".weight".
void PutInt4(StoredCheckpoint& checkpoint, const std::string& name, const Int4Matrix& matrix,
             const Int4Options& options);

// Stores every projection of attention and feed-forward networks whose name passes so, and says so
// in the config. What became of each, by its name.
std::map<std::string, Int4Matrix> StoreAsInt4(
    StoredCheckpoint& checkpoint, const Int4Options& options,
    const std::function<bool(const std::string&)>& which = nullptr);

}  // namespace conclave::testing

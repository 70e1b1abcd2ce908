// Reference outputs of a model folder (golden.json and golden.safetensors, tests/golden/README.md).
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace conclave::testing {

struct GoldenPrompt {
  std::vector<int32_t> ids;
  std::vector<int32_t> greedy_ids;
};

// How far transformers in bf16 is from the reference: absolute errors of logits.
struct GoldenYardstick {
  double mean_error = 0;
  // Over the positions before the first expert chosen differently in their prompt.
  double mean_error_before_routing_differs = 0;
  double max_error_before_routing_differs = 0;
  int64_t positions_before_routing_differs = 0;
};

class Golden {
 public:
  static absl::StatusOr<Golden> Open(const std::filesystem::path& dir);

  const std::vector<GoldenPrompt>& prompts() const { return prompts_; }
  // The prompt whose hidden states are kept.
  size_t hidden_prompt() const { return hidden_prompt_; }
  const std::vector<int32_t>& moe_layers() const { return moe_layers_; }
  const GoldenYardstick& yardstick() const { return yardstick_; }

  // Elements of a tensor of golden.safetensors, row-major. Aborts when it is missing or of another
  // type.
  std::vector<float> Floats(const std::string& name) const;
  std::vector<int32_t> Ints(const std::string& name) const;

 private:
  struct File;

  std::vector<GoldenPrompt> prompts_;
  size_t hidden_prompt_ = 0;
  std::vector<int32_t> moe_layers_;
  GoldenYardstick yardstick_;
  std::shared_ptr<const File> file_;
};

// The model folders to check: those of tests/golden with a golden.json, and those that
// CONCLAVE_GOLDENS names (colon-separated; each a model folder or a folder of them). Aborts on a
// folder named there that holds none.
std::vector<std::filesystem::path> GoldenFolders();

}  // namespace conclave::testing

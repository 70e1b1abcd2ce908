// A Hugging Face checkpoint folder, opened and checked: config.json plus memory-mapped safetensors.
//
// Opened once at start by engines, workers and `conclave doctor`; read-only and thread-safe
// afterwards. Links no kernels.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shared/weights/model_config.h"

namespace conclave::weights {

class Checkpoint {
 public:
  struct Options {
    ConfigOptions config;
  };

  // Maps every shard and checks the whole tensor table against the config: names, shapes, types,
  // none missing, none left over (MTP layers and known inert tensors apart). Opening reads headers
  // only, never the weights, but for an LM head that should be tied: it must equal the embedding.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::filesystem::path& model_dir,
                                                          const Options& options);
  ~Checkpoint();

  const ModelConfig& config() const;
  const std::filesystem::path& dir() const;
  const std::vector<std::string>& warnings() const;  // of config and tensors, one line each
  int64_t weight_bytes() const;                      // stored bytes of the tensors it reads

  // Reads rows [first_row, first_row + num_rows) of a matrix (or elements of a vector) as f32 into
  // `output`: exact for F32, F16 and BF16; FP8 is multiplied by its block scale and rounded to
  // bf16. `name` is the canonical per-expert name ("...experts.3.up_proj.weight"): fused layouts
  // are resolved here. CHECK-fails on a name or range that Open did not verify.
  void ReadRows(std::string_view name, int64_t first_row, int64_t num_rows,
                std::span<float> output) const;
  bool Has(std::string_view name) const;

  // The file that holds a tensor, for messages.
  std::string FileOf(std::string_view name) const;

  // FAILED_PRECONDITION when a file was written to after Open; called before reading weights.
  absl::Status CheckUnchanged() const;

  // Lets the system take back the pages of a tensor that is not read again soon.
  void Forget(std::string_view name) const;

  // SHA-256, 64 hex digits, over the normalised config, the tensor table, 64 KiB samples of every
  // tensor, and the numerics class name ("bf16"): docs/formats.md. Takes at most seconds.
  std::string Fingerprint(std::string_view numerics_class) const;

 private:
  struct State;
  explicit Checkpoint(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

// Turns the value of --model into a folder: a path, or org/name in the local Hugging Face cache
// (HF_HOME, HF_HUB_CACHE; default ~/.cache/huggingface), offline: refs/main, else the newest
// snapshot. NOT_FOUND lists where it looked.
absl::StatusOr<std::filesystem::path> ResolveModelDir(std::string_view model);

}  // namespace conclave::weights

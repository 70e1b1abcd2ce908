// A Hugging Face checkpoint folder, opened and checked: config.json plus memory-mapped safetensors.
//
// Opened once at start by engines, workers and `conclave doctor`; read-only and thread-safe
// afterwards. Links no kernels.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "kernels/matrix.h"
#include "shared/weights/stored_model.h"
#include "shared/weights/tensor_reader.h"

namespace conclave::weights {

class Checkpoint : public StoredModel, public TensorReader {
 public:
  struct Options {
    ConfigOptions config;
  };

  // Maps every shard and checks the whole tensor table against the config: names, shapes, types,
  // none missing, none left over (MTP layers and known inert tensors apart). Opening reads headers
  // only, never the weights, but for an LM head that should be tied: it must equal the embedding.
  static absl::StatusOr<std::unique_ptr<Checkpoint>> Open(const std::filesystem::path& model_dir,
                                                          const Options& options);
  ~Checkpoint() override;

  const ModelConfig& config() const override;
  const std::filesystem::path& path() const override;  // the folder
  const std::vector<std::string>& warnings() const override;
  int64_t weight_bytes() const override;
  std::string StoredAs() const override { return config().stored_dtype; }
  absl::Status CheckUnchanged() const override;
  // Reads 64 KiB samples of every tensor; takes at most seconds.
  std::string Fingerprint(std::string_view label) const override;
  const Checkpoint* checkpoint() const override { return this; }

  // Exact for F32, F16 and BF16; FP8 is multiplied by its block scale and rounded to bf16; int4 is
  // scale * (integer - zero point). `name`
  // is the canonical per-expert name ("...experts.3.up_proj.weight"): fused layouts are resolved
  // here.
  void ReadRows(std::string_view name, int64_t first_row, int64_t num_rows,
                std::span<float> output) const override;
  std::optional<kernels::WeightFormat> IntegersOf(std::string_view name) const override;
  void ReadIntegers(std::string_view name, int64_t first_row, int64_t num_rows,
                    Int4Values& output) const override;
  absl::Status Check(std::string_view name) const override;
  bool Has(std::string_view name) const;
  std::string FileOf(std::string_view name) const override;
  void Forget(std::string_view name) const override;

 private:
  struct State;
  explicit Checkpoint(std::unique_ptr<State> state);
  std::unique_ptr<State> state_;
};

}  // namespace conclave::weights

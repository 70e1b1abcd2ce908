// A packed file as a model: its config, read and checked, and the file itself.
//
// Immutable and thread-safe. Links no kernels.
#pragma once

#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "shared/weights/packed_file.h"
#include "shared/weights/stored_model.h"

namespace conclave::weights {

class PackedModel : public StoredModel, public std::enable_shared_from_this<PackedModel> {
 public:
  static absl::StatusOr<std::shared_ptr<const PackedModel>> Open(const std::filesystem::path& path,
                                                                 const ConfigOptions& options);

  const PackedFile& file() const { return *file_; }
  // The label of its weight formats: "int8".
  const std::string& formats() const { return file_->index().numerics; }

  const ModelConfig& config() const override { return config_; }
  const std::filesystem::path& path() const override { return file_->path(); }
  const std::vector<std::string>& warnings() const override { return warnings_; }
  int64_t weight_bytes() const override;
  std::string StoredAs() const override { return formats(); }
  absl::Status CheckUnchanged() const override { return file_->CheckUnchanged(); }
  std::string Fingerprint(std::string_view label) const override;
  const PackedModel* packed() const override { return this; }

 private:
  PackedModel() = default;

  std::unique_ptr<PackedFile> file_;
  ModelConfig config_;
  std::vector<std::string> warnings_;
};

}  // namespace conclave::weights

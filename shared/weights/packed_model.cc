#include "shared/weights/packed_model.h"

#include "shared/base/check.h"
#include "shared/base/status_macros.h"
#include "shared/weights/checkpoint.h"

namespace conclave::weights {

absl::StatusOr<std::shared_ptr<const PackedModel>> PackedModel::Open(
    const std::filesystem::path& path, const ConfigOptions& options) {
  std::shared_ptr<PackedModel> model(new PackedModel());
  ASSIGN_OR_RETURN(model->file_, PackedFile::Open(path));
  ASSIGN_OR_RETURN(const std::string_view config, model->file_->Text("config.json"));
  ASSIGN_OR_RETURN(model->config_,
                   ParseModelConfig((path / "config.json").string(), std::string(config), options,
                                    &model->warnings_));
  return model;
}

int64_t PackedModel::weight_bytes() const {
  int64_t bytes = 0;
  for (const PackedEntry& entry : file_->index().entries) {
    bytes += static_cast<int64_t>(entry.bytes);
  }
  return bytes;
}

std::string PackedModel::Fingerprint(std::string_view label) const {
  CONCLAVE_CHECK(label == formats());
  return file_->index().fingerprint;
}

absl::StatusOr<std::shared_ptr<const StoredModel>> OpenModel(const std::filesystem::path& path,
                                                             const ConfigOptions& options) {
  if (IsPackedFile(path)) return PackedModel::Open(path, options);
  ASSIGN_OR_RETURN(std::shared_ptr<const StoredModel> checkpoint,
                   Checkpoint::Open(path, {.config = options}));
  return checkpoint;
}

}  // namespace conclave::weights

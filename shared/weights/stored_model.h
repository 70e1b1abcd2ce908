// A model as it lies on disk, opened: a checkpoint's folder or a packed file.
//
// Opened once at start by engines, workers and the command line; immutable and thread-safe. What is
// loaded from it keeps alive what it needs of it.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shared/weights/model_config.h"

namespace conclave::weights {

class Checkpoint;
class PackedModel;

class StoredModel {
 public:
  virtual ~StoredModel() = default;

  virtual const ModelConfig& config() const = 0;
  virtual const std::filesystem::path& path() const = 0;
  virtual const std::vector<std::string>& warnings() const = 0;  // one line each
  virtual int64_t weight_bytes() const = 0;  // stored bytes of the tensors that are read
  // What its weights are stored as, for people: "bfloat16", "fp8", "int8".
  virtual std::string StoredAs() const = 0;
  // FAILED_PRECONDITION when a file was written to after it was opened.
  virtual absl::Status CheckUnchanged() const = 0;
  // 64 hex digits over the normalised config, the tensors, and `label`, the weight formats':
  // docs/formats.md. A packed file knows that of its own formats alone.
  virtual std::string Fingerprint(std::string_view label) const = 0;

  // What it is; the other one is null.
  virtual const Checkpoint* checkpoint() const { return nullptr; }
  virtual const PackedModel* packed() const { return nullptr; }
};

// `path`: what ResolveModel gives. Errors of Checkpoint::Open and PackedModel::Open.
absl::StatusOr<std::shared_ptr<const StoredModel>> OpenModel(const std::filesystem::path& path,
                                                             const ConfigOptions& options);

}  // namespace conclave::weights

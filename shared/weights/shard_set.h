// All safetensors files of a checkpoint folder: one file, or shards with an index.
//
// Opened by Checkpoint; immutable and thread-safe. Owns the mappings.
#pragma once

#include <filesystem>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "shared/weights/mapped_file.h"
#include "shared/weights/safetensors_header.h"

namespace conclave::weights {

// A tensor as a file stores it.
struct StoredTensor {
  const MappedFile* file = nullptr;  // owned by the ShardSet
  TensorInfo info;

  const std::byte* data() const { return file->data() + info.begin; }
};

// For messages: "FILE: tensor NAME is BF16 [2, 3]".
std::string Described(const StoredTensor& stored);

class ShardSet {
 public:
  // Maps model.safetensors, else model.safetensors.index.json's shards, else the folder's only
  // other safetensors file. Checks each header, that the index and the shards name the same
  // tensors, and that no tensor is in two shards. Errors: NOT_FOUND (no weights, a missing shard),
  // UNIMPLEMENTED (GGUF or PyTorch files instead), INVALID_ARGUMENT (damaged).
  static absl::StatusOr<ShardSet> Open(const std::filesystem::path& model_dir);

  const std::map<std::string, StoredTensor, std::less<>>& tensors() const { return tensors_; }
  const StoredTensor* Find(std::string_view name) const;
  const std::vector<std::unique_ptr<MappedFile>>& files() const { return files_; }

 private:
  // Maps one shard and adds its tensors.
  absl::Status Add(const std::filesystem::path& path);

  std::vector<std::unique_ptr<MappedFile>> files_;
  std::map<std::string, StoredTensor, std::less<>> tensors_;
};

}  // namespace conclave::weights

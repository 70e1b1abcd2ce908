// The small files of a model (config.json, tokenizer.json and the like): those of a checkpoint's
// folder, or those that travel inside a packed file.
//
// For loaders, on their threads. Links no kernels.
#pragma once

#include <cstdint>
#include <filesystem>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "shared/weights/packed_file.h"

namespace conclave::weights {

class ModelFiles {
 public:
  // `model`: what ResolveModel gives. Errors are those of PackedFile::Open; a folder is not looked
  // at yet.
  static absl::StatusOr<ModelFiles> Open(const std::filesystem::path& model);

  // Names are relative, with '/' between folder and file.
  bool Has(std::string_view name) const;
  bool packed() const { return packed_ != nullptr; }
  // NOT_FOUND when there is none; INVALID_ARGUMENT beyond `max_bytes`, or when it is no regular
  // file.
  absl::StatusOr<std::string> Read(std::string_view name, uint64_t max_bytes) const;
  // Names of the files directly inside `folder`, ascending.
  std::vector<std::string> List(std::string_view folder) const;
  // How messages call a file: "models/tales/config.json", "tales.conclave/config.json".
  std::string PathOf(std::string_view name) const;

 private:
  std::filesystem::path path_;
  std::shared_ptr<const PackedFile> packed_;  // null: a folder
};

// Turns the value of --model into a path: of a checkpoint's folder or a packed file, or org/name in
// the local Hugging Face cache (HF_HOME, HF_HUB_CACHE; default ~/.cache/huggingface), offline:
// refs/main, else the newest snapshot. NOT_FOUND lists where it looked.
absl::StatusOr<std::filesystem::path> ResolveModel(std::string_view model);

// What of a checkpoint's folder a packed file takes along, ascending. An error names the folder
// that cannot be read.
absl::StatusOr<std::vector<std::string>> FilesToPack(const std::filesystem::path& folder);

// What a model is called unless the settings say otherwise: the folder's name, or the packed file's
// without the extension ".conclave".
std::string DefaultServedName(const std::filesystem::path& model);

}  // namespace conclave::weights

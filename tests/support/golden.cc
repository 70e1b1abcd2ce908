#include "tests/support/golden.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <iostream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <string_view>

#include "shared/base/status_macros.h"
#include "shared/weights/mapped_file.h"
#include "shared/weights/safetensors_header.h"

namespace conclave::testing {
namespace {

[[noreturn]] void Die(const std::string& message) {
  std::cerr << message << "\n";
  std::abort();
}

// The folder itself, or its sub-folders, that hold a golden.json.
std::vector<std::filesystem::path> ModelFoldersOf(const std::filesystem::path& folder) {
  if (std::filesystem::exists(folder / "golden.json")) return {folder};
  std::vector<std::filesystem::path> found;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(folder, error)) {
    if (std::filesystem::exists(entry.path() / "golden.json")) found.push_back(entry.path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

}  // namespace

struct Golden::File {
  std::unique_ptr<weights::MappedFile> mapped;
  std::vector<weights::TensorInfo> tensors;

  template <typename T>
  std::vector<T> Read(const std::string& name, weights::DType dtype) const {
    for (const weights::TensorInfo& tensor : tensors) {
      if (tensor.name != name || tensor.dtype != dtype) continue;
      std::vector<T> values(tensor.bytes() / sizeof(T));
      std::memcpy(values.data(), mapped->data() + tensor.begin, tensor.bytes());
      return values;
    }
    Die(mapped->path().string() + " lacks " + name);
  }
};

absl::StatusOr<Golden> Golden::Open(const std::filesystem::path& dir) {
  Golden golden;
  std::ifstream stream(dir / "golden.json");
  const nlohmann::json json = nlohmann::json::parse(stream, nullptr, false);
  if (json.is_discarded())
    return absl::InvalidArgumentError((dir / "golden.json").string() + " is not JSON");
  for (const auto& prompt : json.at("prompts")) {
    golden.prompts_.push_back({.ids = prompt.at("ids"), .greedy_ids = prompt.at("greedy_ids")});
  }
  golden.hidden_prompt_ = json.value("hidden_prompt", size_t{2});
  golden.moe_layers_ = json.at("moe_layers").get<std::vector<int32_t>>();
  const auto& yardstick = json.at("yardstick");
  golden.yardstick_ = {
      .mean_error = yardstick.at("bf16_mean_abs_logit_error"),
      .mean_error_before_routing_differs =
          yardstick.at("bf16_mean_abs_logit_error_before_routing_differs"),
      .max_error_before_routing_differs =
          yardstick.at("bf16_max_abs_logit_error_before_routing_differs"),
      .positions_before_routing_differs = yardstick.at("bf16_positions_before_routing_differs")};

  auto file = std::make_shared<File>();
  ASSIGN_OR_RETURN(file->mapped, weights::MappedFile::Open(dir / "golden.safetensors"));
  const uint64_t size = file->mapped->size();
  const std::string name = file->mapped->path().string();
  ASSIGN_OR_RETURN(
      const uint64_t header_bytes,
      weights::ParseHeaderLength(file->mapped->View(0, std::min<uint64_t>(size, 8)), size, name));
  ASSIGN_OR_RETURN(file->tensors,
                   weights::ParseHeader(file->mapped->View(8, 8 + header_bytes), size, name));
  golden.file_ = std::move(file);
  return golden;
}

std::vector<float> Golden::Floats(const std::string& name) const {
  return file_->Read<float>(name, weights::DType::kF32);
}

std::vector<int32_t> Golden::Ints(const std::string& name) const {
  return file_->Read<int32_t>(name, weights::DType::kI32);
}

std::vector<std::filesystem::path> GoldenFolders() {
  std::vector<std::filesystem::path> folders = ModelFoldersOf(CONCLAVE_SOURCE_DIR "/tests/golden");
  const char* more = std::getenv("CONCLAVE_GOLDENS");
  std::istringstream names(more == nullptr ? "" : more);
  for (std::string name; std::getline(names, name, ':');) {
    if (name.empty()) continue;
    const auto found = ModelFoldersOf(name);
    if (found.empty())
      Die("CONCLAVE_GOLDENS: " + name + " holds no golden.json, nor does a folder in it");
    folders.insert(folders.end(), found.begin(), found.end());
  }
  return folders;
}

}  // namespace conclave::testing

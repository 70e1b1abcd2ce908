#include "shared/weights/shard_set.h"

#include <algorithm>
#include <set>
#include <system_error>
#include <utility>

#include "absl/strings/str_cat.h"
#include "shared/base/status_macros.h"
#include "shared/weights/json_file.h"

namespace conclave::weights {
namespace {

namespace fs = std::filesystem;

constexpr char kIndexName[] = "model.safetensors.index.json";
constexpr char kSingleName[] = "model.safetensors";
// DeepSeek-V3's index, with 90 000 tensors, has 9 MB.
constexpr uint64_t kMaxIndexBytes = 256 << 20;

std::vector<fs::path> FilesWithExtension(const fs::path& folder, std::string_view extension) {
  std::vector<fs::path> found;
  std::error_code error;
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == extension) found.push_back(it->path());
  }
  std::sort(found.begin(), found.end());
  return found;
}

// There is no index and no model.safetensors: says what else is there.
absl::StatusOr<fs::path> OnlyOtherFile(const fs::path& folder) {
  const std::vector<fs::path> others = FilesWithExtension(folder, ".safetensors");
  if (others.size() == 1) return others.front();
  if (others.size() > 1) {
    return absl::NotFoundError(
        absl::StrCat(folder.string(), " has ", others.size(), " safetensors files but no ",
                     kIndexName, " that says which tensor is where; download the index as well"));
  }
  if (!FilesWithExtension(folder, ".gguf").empty()) {
    return absl::UnimplementedError(
        absl::StrCat(folder.string(),
                     " holds GGUF weights, which are not supported; use the original "
                     "safetensors checkpoint (docs/models.md)"));
  }
  for (const char* extension : {".bin", ".pt", ".pth"}) {
    if (!FilesWithExtension(folder, extension).empty()) {
      return absl::UnimplementedError(
          absl::StrCat(folder.string(), " holds PyTorch ", extension,
                       " weights, which are not supported; convert them with transformers' "
                       "save_pretrained(safe_serialization=True)"));
    }
  }
  return absl::NotFoundError(absl::StrCat(folder.string(), " holds no weights: wanted ",
                                          kSingleName, " or ", kIndexName, " with its shards"));
}

// weight_map: tensor name -> shard file name.
absl::StatusOr<std::map<std::string, std::string>> ReadIndex(const fs::path& path) {
  ASSIGN_OR_RETURN(const nlohmann::json index, ReadJsonObject(path, kMaxIndexBytes));
  const auto weight_map = index.find("weight_map");
  if (weight_map == index.end() || !weight_map->is_object() || weight_map->empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        path.string(), ": weight_map is missing, empty or no object; download the index again"));
  }
  std::map<std::string, std::string> shard_of;
  for (const auto& [tensor, shard] : weight_map->items()) {
    const std::string name = shard.is_string() ? shard.get<std::string>() : "";
    // A shard lies beside the index: a path that leads elsewhere is no part of this checkpoint.
    if (name.empty() || fs::path(name).filename() != name || name == "." || name == "..") {
      return absl::InvalidArgumentError(absl::StrCat(path.string(), ": weight_map maps ", tensor,
                                                     " to ", shard.dump().substr(0, 200),
                                                     ", wanted a file name in the same folder"));
    }
    shard_of.emplace(tensor, name);
  }
  return shard_of;
}

}  // namespace

absl::Status ShardSet::Add(const fs::path& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<MappedFile> file, MappedFile::Open(path));
  const std::string_view first = file->View(0, std::min<uint64_t>(8, file->size()));
  ASSIGN_OR_RETURN(const uint64_t header_bytes,
                   ParseHeaderLength(first, file->size(), path.string()));
  ASSIGN_OR_RETURN(std::vector<TensorInfo> tensors,
                   ParseHeader(file->View(8, 8 + header_bytes), file->size(), path.string()));
  for (TensorInfo& info : tensors) {
    const std::string name = info.name;
    const auto [it, inserted] = tensors_.emplace(name, StoredTensor{file.get(), std::move(info)});
    if (!inserted) {
      return absl::InvalidArgumentError(
          absl::StrCat("tensor ", name, " is in both ", it->second.file->path().string(), " and ",
                       path.string(), "; remove the file that is not part of this checkpoint"));
    }
  }
  files_.push_back(std::move(file));
  return absl::OkStatus();
}

std::string Described(const StoredTensor& stored) {
  return absl::StrCat(stored.file->path().string(), ": tensor ", stored.info.name, " is ",
                      std::string(DTypeName(stored.info.dtype)), " ", ShapeText(stored.info.shape));
}

absl::StatusOr<ShardSet> ShardSet::Open(const fs::path& model_dir) {
  ShardSet set;
  const fs::path index_path = model_dir / kIndexName;
  std::error_code error;
  // As transformers does: a single file is preferred to an index beside it.
  fs::path single = model_dir / kSingleName;
  const bool has_single = fs::exists(single, error);
  if (has_single || !fs::exists(index_path, error)) {
    if (!has_single) {
      ASSIGN_OR_RETURN(single, OnlyOtherFile(model_dir));
    }
    RETURN_IF_ERROR(set.Add(single));
    return set;
  }

  ASSIGN_OR_RETURN(const auto shard_of, ReadIndex(index_path));
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : shard_of) shards.insert(shard);
  std::vector<std::string> missing;
  for (const std::string& shard : shards) {
    if (!fs::exists(model_dir / shard, error)) missing.push_back(shard);
  }
  if (!missing.empty()) {
    return absl::NotFoundError(absl::StrCat(
        model_dir.string(), ": ", missing.size(), " of ", shards.size(), " shards are missing, ",
        missing.front(), missing.size() > 1 ? " first" : "", "; finish the download"));
  }
  for (const std::string& shard : shards) RETURN_IF_ERROR(set.Add(model_dir / shard));

  for (const auto& [tensor, shard] : shard_of) {
    const StoredTensor* stored = set.Find(tensor);
    if (stored == nullptr || stored->file->path().filename() != shard) {
      return absl::InvalidArgumentError(absl::StrCat(
          index_path.string(), ": weight_map says that tensor ", tensor, " is in ", shard,
          stored == nullptr ? ", but no shard has it"
                            : ", but it is in " + stored->file->path().filename().string(),
          "; download index and shards of the same revision"));
    }
  }
  for (const auto& [name, stored] : set.tensors()) {
    if (!shard_of.contains(name)) {
      return absl::InvalidArgumentError(absl::StrCat(
          stored.file->path().string(), ": tensor ", name, " is not in the weight_map of ",
          kIndexName, "; download index and shards of the same revision"));
    }
  }
  return set;
}

const StoredTensor* ShardSet::Find(std::string_view name) const {
  const auto it = tensors_.find(name);
  return it == tensors_.end() ? nullptr : &it->second;
}

}  // namespace conclave::weights

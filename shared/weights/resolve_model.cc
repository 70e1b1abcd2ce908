// ResolveModel: a path, or a name in the local Hugging Face cache.
#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <string>
#include <system_error>
#include <vector>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "shared/base/json_file.h"
#include "shared/weights/model_files.h"

namespace conclave::weights {
namespace {

namespace fs = std::filesystem;

constexpr uint64_t kMaxRefBytes = 1024;  // a commit has 40

std::string Environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

// Where huggingface_hub keeps its models, by its own rules of precedence.
fs::path HubCache() {
  for (const char* name : {"HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"}) {
    if (const std::string path = Environment(name); !path.empty()) return path;
  }
  if (const std::string home = Environment("HF_HOME"); !home.empty()) return fs::path(home) / "hub";
  if (const std::string cache = Environment("XDG_CACHE_HOME"); !cache.empty()) {
    return fs::path(cache) / "huggingface" / "hub";
  }
  return fs::path(Environment("HOME")) / ".cache" / "huggingface" / "hub";
}

bool IsNamePart(std::string_view part) {
  return !part.empty() && part != "." && part != ".." &&
         std::all_of(part.begin(), part.end(), [](unsigned char c) {
           return std::isalnum(c) || c == '-' || c == '_' || c == '.';
         });
}

// "org/name" -> "models--org--name"; "" when it is no such name.
std::string CacheFolderName(std::string_view model) {
  const size_t slash = model.find('/');
  if (slash == std::string_view::npos) return "";
  const std::string_view org = model.substr(0, slash);
  const std::string_view name = model.substr(slash + 1);
  if (!IsNamePart(org) || !IsNamePart(name)) return "";
  return absl::StrCat("models--", std::string(org), "--", std::string(name));
}

// The commit that refs/main names; "" when there is none.
std::string MainCommit(const fs::path& folder) {
  const auto text = ReadRegularFile(folder / "refs" / "main", kMaxRefBytes);
  const std::string commit(absl::StripAsciiWhitespace(text.ok() ? *text : ""));
  return IsNamePart(commit) ? commit : "";
}

// The newest snapshot that has a config.json; empty when there is none.
fs::path NewestSnapshot(const fs::path& snapshots) {
  fs::path newest;
  fs::file_time_type newest_time;
  std::error_code error;
  for (fs::directory_iterator it(snapshots, error), end; !error && it != end; it.increment(error)) {
    std::error_code ignored;
    const fs::file_time_type time = fs::last_write_time(it->path(), ignored);
    if (ignored || !fs::exists(it->path() / "config.json", ignored)) continue;
    // Equal times: the greater name, so that the choice is the same every time.
    if (newest.empty() || time > newest_time || (time == newest_time && it->path() > newest)) {
      newest = it->path();
      newest_time = time;
    }
  }
  return newest;
}

}  // namespace

absl::StatusOr<fs::path> ResolveModel(std::string_view model) {
  if (model.empty()) {
    return absl::InvalidArgumentError(
        "the model is \"\"; give a checkpoint folder, a packed file or org/name");
  }
  const std::string text(model);
  fs::path path(text);
  if (text == "~" || text.substr(0, 2) == "~/") {
    path = fs::path(Environment("HOME")) / text.substr(std::min<size_t>(2, text.size()));
  }
  std::error_code error;
  if (fs::is_directory(path, error)) return path;
  if (fs::exists(path, error)) {
    if (path.extension() == ".gguf") {
      return absl::UnimplementedError(
          absl::StrCat(path.string(),
                       " is a GGUF file, which is not supported; give the folder of the original "
                       "safetensors checkpoint (docs/models.md)"));
    }
    if (IsPackedFile(path)) return path;
    if (const auto opened = PackedFile::Open(path); absl::IsPermissionDenied(opened.status())) {
      return opened.status();
    }
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(),
                     " is no packed file; give one (conclave pack), or the checkpoint folder that "
                     "holds config.json"));
  }

  const std::string folder_name = CacheFolderName(model);
  if (folder_name.empty()) {
    return absl::NotFoundError(absl::StrCat(
        path.string(),
        " does not exist; give a checkpoint folder, a packed file, or org/name of a model in the "
        "Hugging Face cache"));
  }
  const fs::path folder = HubCache() / folder_name;
  if (const std::string commit = MainCommit(folder); !commit.empty()) {
    const fs::path snapshot = folder / "snapshots" / commit;
    if (fs::exists(snapshot / "config.json", error)) return snapshot;
  }
  if (fs::path newest = NewestSnapshot(folder / "snapshots"); !newest.empty()) return newest;
  return absl::NotFoundError(absl::StrCat(
      "model ", text, " is neither the folder ", fs::absolute(path, error).string(),
      " nor in the Hugging Face cache at ", folder.string(), "; download it first (hf download ",
      text, "), or set HF_HOME to the cache that has it"));
}

}  // namespace conclave::weights

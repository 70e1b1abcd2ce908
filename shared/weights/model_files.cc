#include "shared/weights/model_files.h"

#include <algorithm>
#include <system_error>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "shared/base/json_file.h"
#include "shared/base/status_macros.h"

namespace conclave::weights {
namespace {

namespace fs = std::filesystem;

constexpr const char* kNames[] = {"chat_template.jinja",    "config.json",
                                  "generation_config.json", "special_tokens_map.json",
                                  "tokenizer.json",         "tokenizer_config.json"};
constexpr char kTemplates[] = "additional_chat_templates";
constexpr char kTemplateExtension[] = ".jinja";

}  // namespace

absl::StatusOr<ModelFiles> ModelFiles::Open(const fs::path& model) {
  ModelFiles files;
  files.path_ = model;
  if (IsPackedFile(model)) {
    ASSIGN_OR_RETURN(files.packed_, PackedFile::Open(model));
  }
  return files;
}

bool ModelFiles::Has(std::string_view name) const {
  if (packed_ != nullptr) return packed_->Text(name).ok();
  std::error_code error;
  return fs::exists(path_ / name, error);
}

absl::StatusOr<std::string> ModelFiles::Read(std::string_view name, uint64_t max_bytes) const {
  if (packed_ == nullptr) return ReadRegularFile((path_ / name).string(), max_bytes);
  ASSIGN_OR_RETURN(const std::string_view text, packed_->Text(name));
  if (text.size() > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(PathOf(name), " has ", text.size(),
                                                   " bytes; at most ", max_bytes, " are read"));
  }
  return std::string(text);
}

std::vector<std::string> ModelFiles::List(std::string_view folder) const {
  std::vector<std::string> names;
  if (packed_ != nullptr) {
    const std::string prefix = absl::StrCat(std::string(folder), "/");
    for (const PackedText& text : packed_->index().texts) {
      if (absl::StartsWith(text.name, prefix) &&
          text.name.find('/', prefix.size()) == std::string::npos) {
        names.push_back(text.name.substr(prefix.size()));
      }
    }
  } else {
    std::error_code error;
    for (fs::directory_iterator it(path_ / folder, error), end; !error && it != end;
         it.increment(error)) {
      names.push_back(it->path().filename().string());
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string ModelFiles::PathOf(std::string_view name) const { return (path_ / name).string(); }

absl::StatusOr<std::vector<std::string>> FilesToPack(const fs::path& folder) {
  std::vector<std::string> names;
  std::error_code error;
  for (const char* name : kNames) {
    if (fs::exists(folder / name, error)) names.emplace_back(name);
  }
  const fs::path templates = folder / kTemplates;
  if (fs::exists(templates, error)) {
    fs::directory_iterator it(templates, error);
    for (const fs::directory_iterator end; !error && it != end; it.increment(error)) {
      const std::string name = it->path().filename().string();
      if (it->path().extension() == kTemplateExtension) {
        names.push_back(absl::StrCat(kTemplates, "/", name));
      }
    }
    if (error) {
      return absl::UnavailableError(
          absl::StrCat(templates.string(), " cannot be read: ", error.message()));
    }
  }
  std::sort(names.begin(), names.end());
  return names;
}

std::string DefaultServedName(const fs::path& model) {
  return model.extension() == ".conclave" ? model.stem().string() : model.filename().string();
}

}  // namespace conclave::weights

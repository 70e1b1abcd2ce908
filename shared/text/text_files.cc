#include "shared/text/text_files.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <cstdint>
#include <string_view>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "shared/base/check.h"
#include "shared/base/json_file.h"
#include "shared/base/status_macros.h"
#include "shared/weights/model_files.h"

namespace conclave::text {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;
using weights::ModelFiles;

// The largest vocabularies (260 000 tokens) make files of 30 MB.
constexpr uint64_t kMaxTokenizerBytes = 256u << 20;

// SHA-256 over parts, each with its name and length, so that no two lists of parts run together.
class VersionHash {
 public:
  VersionHash() : context_(EVP_MD_CTX_new()) {
    CONCLAVE_CHECK(context_ != nullptr && EVP_DigestInit_ex(context_, EVP_sha256(), nullptr) == 1);
    AddBytes("conclave text 1\n");
  }
  ~VersionHash() { EVP_MD_CTX_free(context_); }
  VersionHash(const VersionHash&) = delete;
  VersionHash& operator=(const VersionHash&) = delete;

  void Add(std::string_view name, std::string_view bytes) {
    AddBytes(absl::StrCat(std::string(name), " ", bytes.size(), "\n"));
    AddBytes(bytes);
  }

  std::string Hex() {
    std::array<unsigned char, 32> digest;
    CONCLAVE_CHECK(EVP_DigestFinal_ex(context_, digest.data(), nullptr) == 1);
    return absl::BytesToHexString(
        absl::string_view(reinterpret_cast<const char*>(digest.data()), digest.size()));
  }

 private:
  void AddBytes(std::string_view bytes) {
    CONCLAVE_CHECK(EVP_DigestUpdate(context_, bytes.data(), bytes.size()) == 1);
  }

  EVP_MD_CTX* const context_;
};

absl::Status Invalid(const std::string& path, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path, ": ", std::string(what)));
}

// The object in a file; an empty object if there is no file.
absl::StatusOr<json> ReadOptionalObject(const ModelFiles& model, std::string_view name,
                                        std::string& text) {
  const std::string path = model.PathOf(name);
  absl::StatusOr<std::string> read = model.Read(name, kMaxJsonFileBytes);
  if (absl::IsNotFound(read.status())) return json::object();
  RETURN_IF_ERROR(read.status());
  text = *std::move(read);
  if (IsNestedTooDeeply(text)) return Invalid(path, "nested too deeply; fetch the file again");
  json value = json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (value.is_discarded()) return Invalid(path, "not valid JSON; fetch the file again");
  if (!value.is_object()) return Invalid(path, "not a JSON object");
  return value;
}

// chat_template.jinja and additional_chat_templates/NAME.jinja, in the order of their names.
absl::StatusOr<std::vector<NamedTemplate>> TemplatesInFiles(const ModelFiles& model) {
  constexpr std::string_view kFolder = "additional_chat_templates";
  std::vector<std::pair<std::string, std::string>> found;  // name, file
  if (model.Has("chat_template.jinja")) found.emplace_back("default", "chat_template.jinja");
  const size_t first = found.size();
  for (const std::string& file : model.List(kFolder)) {
    const fs::path name = file;
    if (name.extension() != ".jinja") continue;
    found.emplace_back(name.stem().string(), absl::StrCat(std::string(kFolder), "/", file));
  }
  std::sort(found.begin() + static_cast<ptrdiff_t>(first), found.end());
  std::vector<NamedTemplate> templates;
  for (const auto& [name, file] : found) {
    ASSIGN_OR_RETURN(std::string source, model.Read(file, kMaxJsonFileBytes));
    templates.push_back({name, model.PathOf(file), std::move(source)});
  }
  return templates;
}

// `chat_template` of tokenizer_config.json: a string, or a list of {name, template}.
absl::StatusOr<std::vector<NamedTemplate>> TemplatesInConfig(const std::string& path,
                                                             const json& config) {
  std::vector<NamedTemplate> templates;
  const auto value = config.find("chat_template");
  if (value == config.end() || value->is_null()) return templates;
  if (value->is_string()) {
    templates.push_back({"default", path, value->get<std::string>()});
    return templates;
  }
  constexpr std::string_view kWanted =
      "chat_template must be a string or a list of objects with string `name` and `template`";
  if (!value->is_array()) return Invalid(path, kWanted);
  for (const json& entry : *value) {
    if (!entry.is_object() || !entry.contains("name") || !entry["name"].is_string() ||
        !entry.contains("template") || !entry["template"].is_string()) {
      return Invalid(path, kWanted);
    }
    const std::string name = entry["name"].get<std::string>();
    for (const NamedTemplate& other : templates) {
      if (other.name == name) {
        return Invalid(path, absl::StrCat("chat_template lists the name \"", name, "\" twice"));
      }
    }
    templates.push_back({name, path, entry["template"].get<std::string>()});
  }
  return templates;
}

absl::Status MissingTokenizer(const ModelFiles& model, const fs::path& path) {
  if (model.packed()) {
    return absl::NotFoundError(absl::StrCat(
        path.string(),
        " has no tokenizer.json inside; put it into the checkpoint's folder and pack it again"));
  }
  const bool has_slow = model.Has("tokenizer.model") || model.Has("vocab.json");
  return absl::NotFoundError(absl::StrCat(
      model.PathOf("tokenizer.json"), " not found",
      has_slow ? " (only the files of a slow tokenizer)" : "",
      "; a fast tokenizer is needed: write it with transformers, AutoTokenizer.from_pretrained(\"",
      path.string(), "\", use_fast=True).save_pretrained(\"", path.string(), "\")"));
}

}  // namespace

absl::StatusOr<TextFiles> ReadTextFiles(const fs::path& path) {
  ASSIGN_OR_RETURN(const ModelFiles model, ModelFiles::Open(path));
  TextFiles files;
  absl::StatusOr<std::string> tokenizer = model.Read("tokenizer.json", kMaxTokenizerBytes);
  if (absl::IsNotFound(tokenizer.status())) return MissingTokenizer(model, path);
  RETURN_IF_ERROR(tokenizer.status());
  files.tokenizer_json = *std::move(tokenizer);

  std::string config_text;
  std::string map_text;
  ASSIGN_OR_RETURN(json config, ReadOptionalObject(model, "tokenizer_config.json", config_text));
  ASSIGN_OR_RETURN(const json map, ReadOptionalObject(model, "special_tokens_map.json", map_text));
  for (const auto& [key, value] : map.items()) {
    if (!config.contains(key)) config[key] = value;
  }
  ASSIGN_OR_RETURN(files.templates, TemplatesInFiles(model));
  if (files.templates.empty()) {
    ASSIGN_OR_RETURN(files.templates,
                     TemplatesInConfig(model.PathOf("tokenizer_config.json"), config));
  }
  config.erase("chat_template");
  files.config_json = config.dump();

  VersionHash hash;
  hash.Add("tokenizer.json", files.tokenizer_json);
  hash.Add("tokenizer_config.json", config_text);
  hash.Add("special_tokens_map.json", map_text);
  for (const NamedTemplate& each : files.templates) {
    hash.Add(absl::StrCat("template ", each.name), each.source);
  }
  files.version = hash.Hex();
  return files;
}

}  // namespace conclave::text

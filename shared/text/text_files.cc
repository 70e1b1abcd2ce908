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

namespace conclave::text {
namespace {

namespace fs = std::filesystem;
using nlohmann::json;

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

absl::Status Invalid(const fs::path& path, std::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(path.string(), ": ", std::string(what)));
}

// The object in a file; an empty object if there is no file.
absl::StatusOr<json> ReadOptionalObject(const fs::path& path, std::string& text) {
  absl::StatusOr<std::string> read = ReadRegularFile(path.string(), kMaxJsonFileBytes);
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
absl::StatusOr<std::vector<NamedTemplate>> TemplatesInFiles(const fs::path& model_dir) {
  std::vector<std::pair<std::string, fs::path>> found;
  std::error_code error;
  if (const fs::path path = model_dir / "chat_template.jinja"; fs::exists(path, error)) {
    found.emplace_back("default", path);
  }
  std::vector<std::pair<std::string, fs::path>> additional;
  const fs::path folder = model_dir / "additional_chat_templates";
  for (fs::directory_iterator it(folder, error), end; !error && it != end; it.increment(error)) {
    if (it->path().extension() == ".jinja") {
      additional.emplace_back(it->path().stem().string(), it->path());
    }
  }
  std::sort(additional.begin(), additional.end());
  found.insert(found.end(), additional.begin(), additional.end());
  std::vector<NamedTemplate> templates;
  for (const auto& [name, path] : found) {
    ASSIGN_OR_RETURN(std::string source, ReadRegularFile(path.string(), kMaxJsonFileBytes));
    templates.push_back({name, path.string(), std::move(source)});
  }
  return templates;
}

// `chat_template` of tokenizer_config.json: a string, or a list of {name, template}.
absl::StatusOr<std::vector<NamedTemplate>> TemplatesInConfig(const fs::path& path,
                                                             const json& config) {
  std::vector<NamedTemplate> templates;
  const auto value = config.find("chat_template");
  if (value == config.end() || value->is_null()) return templates;
  if (value->is_string()) {
    templates.push_back({"default", path.string(), value->get<std::string>()});
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
    templates.push_back({name, path.string(), entry["template"].get<std::string>()});
  }
  return templates;
}

absl::Status MissingTokenizer(const fs::path& model_dir) {
  std::error_code error;
  const bool has_slow = fs::exists(model_dir / "tokenizer.model", error) ||
                        fs::exists(model_dir / "vocab.json", error);
  return absl::NotFoundError(absl::StrCat(
      (model_dir / "tokenizer.json").string(), " not found",
      has_slow ? " (only the files of a slow tokenizer)" : "",
      "; a fast tokenizer is needed: write it with transformers, AutoTokenizer.from_pretrained(\"",
      model_dir.string(), "\", use_fast=True).save_pretrained(\"", model_dir.string(), "\")"));
}

}  // namespace

absl::StatusOr<TextFiles> ReadTextFiles(const fs::path& model_dir) {
  TextFiles files;
  absl::StatusOr<std::string> tokenizer =
      ReadRegularFile((model_dir / "tokenizer.json").string(), kMaxTokenizerBytes);
  if (absl::IsNotFound(tokenizer.status())) return MissingTokenizer(model_dir);
  RETURN_IF_ERROR(tokenizer.status());
  files.tokenizer_json = *std::move(tokenizer);

  const fs::path config_path = model_dir / "tokenizer_config.json";
  std::string config_text;
  std::string map_text;
  ASSIGN_OR_RETURN(json config, ReadOptionalObject(config_path, config_text));
  ASSIGN_OR_RETURN(const json map,
                   ReadOptionalObject(model_dir / "special_tokens_map.json", map_text));
  for (const auto& [key, value] : map.items()) {
    if (!config.contains(key)) config[key] = value;
  }
  ASSIGN_OR_RETURN(files.templates, TemplatesInFiles(model_dir));
  if (files.templates.empty()) {
    ASSIGN_OR_RETURN(files.templates, TemplatesInConfig(config_path, config));
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

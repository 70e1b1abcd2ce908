// The files of a model (a folder, or a packed file) that decide what text becomes which ids, read
// once, and their version.
//
// For Tokenizer and ChatTemplate, at load.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace conclave::text {

struct NamedTemplate {
  std::string name;  // "default" for the only one
  std::string file;  // where it was found, for messages
  std::string source;
};

struct TextFiles {
  std::string tokenizer_json;
  // tokenizer_config.json with the keys that only special_tokens_map.json has; "{}" if neither is
  // there.
  std::string config_json;
  std::vector<NamedTemplate> templates;
  std::string version;  // see Tokenizer::version
};

// NOT_FOUND: no tokenizer.json. INVALID_ARGUMENT: a file that is too large, not JSON, or not of the
// expected form.
absl::StatusOr<TextFiles> ReadTextFiles(const std::filesystem::path& model);

}  // namespace conclave::text

// Reads a JSON file of a model.
#pragma once

#include <cstdint>
#include <filesystem>
#include <string>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace conclave::weights {

// The file's top-level object. NOT_FOUND when the file is absent; INVALID_ARGUMENT when it is
// no regular file, larger than `max_bytes`, is not JSON or nested too deeply, is no object, or has
// an object with the same key twice.
absl::StatusOr<nlohmann::json> ReadJsonObject(const std::filesystem::path& path,
                                              uint64_t max_bytes);
// The same of a text that has been read from `path`.
absl::StatusOr<nlohmann::json> ParseJsonObject(const std::string& path, const std::string& text);

}  // namespace conclave::weights

// Reads a JSON file of a checkpoint folder.
#pragma once

#include <cstdint>
#include <filesystem>

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace conclave::weights {

// The file's top-level object. NOT_FOUND when the file is absent; INVALID_ARGUMENT when it is
// no regular file, larger than `max_bytes`, is not JSON or nested too deeply, is no object, or has
// an object with the same key twice.
absl::StatusOr<nlohmann::json> ReadJsonObject(const std::filesystem::path& path,
                                              uint64_t max_bytes);

}  // namespace conclave::weights

// Small files of state, written so that a crash leaves the old text or the new one, never half of
// either.
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace conclave {

// NOT_FOUND when there is no file.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// Writes a temporary file beside `path`, flushes it to the disk, and renames it over `path`. Makes
// the folders above it. Mode 0600. Errors name the path and the system's reason.
absl::Status WriteFileAtomically(const std::string& path, std::string_view bytes);

// INVALID_ARGUMENT names the path and the byte where the text stops being JSON.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path);
absl::Status WriteJsonFile(const std::string& path, const nlohmann::json& value);

}  // namespace conclave

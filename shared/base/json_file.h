// Small files of state, written so that a crash leaves the old text or the new one, never half of
// either.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"

namespace conclave {

// NOT_FOUND when there is no file.
absl::StatusOr<std::string> ReadFile(const std::string& path);

// For files that come from elsewhere, such as a checkpoint's: never waits and never reads without
// end. INVALID_ARGUMENT when `path` is a pipe, device, folder or the like, or holds more than
// `max_bytes`.
absl::StatusOr<std::string> ReadRegularFile(const std::string& path, uint64_t max_bytes);

// kNo: after a failure of power the file may be lost or empty, and the disk is not waited for.
enum class Flush { kYes, kNo };

// Who may read what is written: its owner, who is the caller (mode 0600); or who might before,
// where there was a file: its owner, group and mode are kept.
enum class Access { kOwner, kAsBefore };

// Writes a temporary file beside `path`, flushes it to the disk, and renames it over `path`. Makes
// the folders above it. Errors name the path and the system's reason; PERMISSION_DENIED too when
// the caller may not give the file to the owner of before, which then stays as it was.
absl::Status WriteFileAtomically(const std::string& path, std::string_view bytes,
                                 Flush flush = Flush::kYes, Access access = Access::kOwner);

// Far more than any file of ours or of a checkpoint has, and far less than a thread's stack takes:
// copying, printing and comparing JSON values recurse.
inline constexpr int kDeepestJson = 100;

// Whether arrays and objects lie deeper in each other than kDeepestJson. Any text: what is not JSON
// is counted as well as it can be.
bool IsNestedTooDeeply(std::string_view text);

// More than the largest config, with all added tokens listed: 1 MB.
inline constexpr uint64_t kMaxJsonFileBytes = 16u << 20;

// INVALID_ARGUMENT names the path and the byte where the text stops being JSON, or says that it is
// nested too deeply, no regular file, or larger than `max_bytes`.
absl::StatusOr<nlohmann::json> ReadJsonFile(const std::string& path,
                                            uint64_t max_bytes = kMaxJsonFileBytes);
// The same of a text that has been read from `path`.
absl::StatusOr<nlohmann::json> ParseJson(const std::string& path, const std::string& text);
absl::Status WriteJsonFile(const std::string& path, const nlohmann::json& value,
                           Access access = Access::kOwner);

}  // namespace conclave

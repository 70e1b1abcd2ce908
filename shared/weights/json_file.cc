#include "shared/weights/json_file.h"

#include <cerrno>
#include <cstdint>
#include <fstream>
#include <set>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shared/base/json_file.h"

namespace conclave::weights {

absl::StatusOr<nlohmann::json> ReadJsonObject(const std::filesystem::path& path,
                                              uint64_t max_bytes) {
  std::error_code error;
  const uint64_t bytes = std::filesystem::file_size(path, error);
  if (error) return absl::ErrnoToStatus(error.value(), absl::StrCat("cannot read ", path.string()));
  if (bytes > max_bytes) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), " has ", bytes,
                                                   " bytes, wanted at most ", max_bytes,
                                                   "; is it the right file?"));
  }
  std::string text(static_cast<size_t>(bytes), '\0');
  std::ifstream stream(path, std::ios::binary);
  if (!stream.read(text.data(), static_cast<std::streamsize>(text.size()))) {
    return absl::InvalidArgumentError(absl::StrCat("cannot read ", path.string()));
  }

  if (IsNestedTooDeeply(text)) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), " has JSON nested deeper than ",
                                                   kDeepestJson, " levels; download it again"));
  }

  // The parser keeps the last of two equal keys; which one was meant is unknown, so refuse both.
  std::vector<std::set<std::string>> keys;
  std::string duplicate;
  const auto watch = [&](int, nlohmann::json::parse_event_t event, nlohmann::json& value) {
    if (event == nlohmann::json::parse_event_t::object_start) {
      keys.emplace_back();
    } else if (event == nlohmann::json::parse_event_t::object_end) {
      keys.pop_back();
    } else if (event == nlohmann::json::parse_event_t::key &&
               !keys.back().insert(value.get<std::string>()).second) {
      duplicate = value.get<std::string>();
    }
    return true;
  };
  nlohmann::json object = nlohmann::json::parse(text, watch, /*allow_exceptions=*/false);
  // The parser takes a zero byte for the end of the text and ignores what follows.
  if (object.is_discarded() || !object.is_object() || text.find('\0') != std::string::npos) {
    return absl::InvalidArgumentError(
        absl::StrCat(path.string(), " is not a JSON object; download it again"));
  }
  if (!duplicate.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(path.string(), " has the key ", duplicate,
                                                   " twice in one object; remove one"));
  }
  return object;
}

}  // namespace conclave::weights

#include "shared/weights/json_file.h"

#include <cstdint>
#include <set>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "shared/base/json_file.h"
#include "shared/base/status_macros.h"

namespace conclave::weights {

absl::StatusOr<nlohmann::json> ReadJsonObject(const std::filesystem::path& path,
                                              uint64_t max_bytes) {
  ASSIGN_OR_RETURN(const std::string text, ReadRegularFile(path.string(), max_bytes));
  return ParseJsonObject(path.string(), text);
}

absl::StatusOr<nlohmann::json> ParseJsonObject(const std::string& path, const std::string& text) {
  if (IsNestedTooDeeply(text)) {
    return absl::InvalidArgumentError(absl::StrCat(path, " has JSON nested deeper than ",
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
        absl::StrCat(path, " is not a JSON object; download it again"));
  }
  if (!duplicate.empty()) {
    return absl::InvalidArgumentError(
        absl::StrCat(path, " has the key ", duplicate, " twice in one object; remove one"));
  }
  return object;
}

}  // namespace conclave::weights

// JSON as strangers send it: one way to read it, without surprises.
#pragma once

#include <nlohmann/json.hpp>
#include <string_view>

#include "absl/status/statusor.h"

namespace conclave::gateway {

inline constexpr int kMaxJsonDepth = 64;

// INVALID_ARGUMENT naming the byte where the text stops being JSON (NaN, numbers beyond a double
// and bytes that are not UTF-8 included), a key that an object has twice, or nesting beyond
// kMaxJsonDepth. The message is a predicate: "is not JSON at byte 3: ...", "has the key "a" twice
// ...".
absl::StatusOr<nlohmann::json> ParseStrictJson(std::string_view text);

}  // namespace conclave::gateway

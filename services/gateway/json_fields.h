// Typed reading of a JSON object's members, with errors that name the member, what was found and
// what was wanted.
//
// A member that is null counts as absent, as OpenAI's clients expect.
#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"

namespace conclave::gateway {

// nullptr when absent or null.
const nlohmann::json* FindField(const nlohmann::json& object, const std::string& name);

// "a string", "an array", ...
std::string JsonTypeName(const nlohmann::json& value);

// INVALID_ARGUMENT (rpc::InvalidField) on another type. Integers may be written as 1.0.
absl::Status ReadField(const nlohmann::json& object, const std::string& name,
                       std::optional<double>* value);
absl::Status ReadField(const nlohmann::json& object, const std::string& name,
                       std::optional<int64_t>* value);
// `prefix`: what error messages put before the name, when the object is itself a field.
absl::Status ReadField(const nlohmann::json& object, const std::string& name, bool* value,
                       const std::string& prefix = "");
absl::Status ReadField(const nlohmann::json& object, const std::string& name, std::string* value);

// The integer in `value`; nullopt when it is none or beyond 64 bits.
std::optional<int64_t> AsInteger(const nlohmann::json& value);

}  // namespace conclave::gateway

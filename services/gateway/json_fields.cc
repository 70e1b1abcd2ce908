#include "services/gateway/json_fields.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

using nlohmann::json;

absl::Status WrongType(const std::string& name, const char* wanted, const json& found) {
  return rpc::InvalidField(name,
                           absl::StrCat("expected ", wanted, ", found ", JsonTypeName(found)));
}

}  // namespace

const json* FindField(const json& object, const std::string& name) {
  const auto found = object.find(name);
  return found == object.end() || found->is_null() ? nullptr : &*found;
}

std::string JsonTypeName(const json& value) {
  switch (value.type()) {
    case json::value_t::null:
      return "null";
    case json::value_t::object:
      return "an object";
    case json::value_t::array:
      return "an array";
    case json::value_t::string:
      return "a string";
    case json::value_t::boolean:
      return "a boolean";
    default:
      return absl::StrCat("the number ", value.dump());
  }
}

std::optional<int64_t> AsInteger(const json& value) {
  if (value.is_number_unsigned()) {
    const auto number = value.get<uint64_t>();
    if (number > static_cast<uint64_t>(INT64_MAX)) return std::nullopt;
    return static_cast<int64_t>(number);
  }
  if (value.is_number_integer()) return value.get<int64_t>();
  if (value.is_number_float()) {
    const auto number = value.get<double>();
    if (std::abs(number) <= 9007199254740992.0 && number == std::floor(number))
      return static_cast<int64_t>(number);
  }
  return std::nullopt;
}

absl::Status ReadField(const json& object, const std::string& name, std::optional<double>* value) {
  const json* const field = FindField(object, name);
  if (!field) return absl::OkStatus();
  if (!field->is_number()) return WrongType(name, "a number", *field);
  *value = field->get<double>();
  return absl::OkStatus();
}

absl::Status ReadField(const json& object, const std::string& name, std::optional<int64_t>* value) {
  const json* const field = FindField(object, name);
  if (!field) return absl::OkStatus();
  *value = AsInteger(*field);
  return *value ? absl::OkStatus() : WrongType(name, "an integer", *field);
}

absl::Status ReadField(const json& object, const std::string& name, bool* value,
                       const std::string& prefix) {
  const json* const field = FindField(object, name);
  if (!field) return absl::OkStatus();
  if (!field->is_boolean()) return WrongType(prefix + name, "a boolean", *field);
  *value = field->get<bool>();
  return absl::OkStatus();
}

absl::Status ReadField(const json& object, const std::string& name, std::string* value) {
  const json* const field = FindField(object, name);
  if (!field) return absl::OkStatus();
  if (!field->is_string()) return WrongType(name, "a string", *field);
  *value = field->get<std::string>();
  return absl::OkStatus();
}

}  // namespace conclave::gateway

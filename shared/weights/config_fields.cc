#include "shared/weights/config_fields.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace conclave::weights {
namespace {

const nlohmann::json kNull = nullptr;

size_t EditDistance(std::string_view a, std::string_view b) {
  std::vector<size_t> row(b.size() + 1);
  for (size_t j = 0; j <= b.size(); ++j) row[j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    size_t diagonal = std::exchange(row[0], i);
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replaced = diagonal + (a[i - 1] == b[j - 1] ? 0 : 1);
      diagonal = row[j];
      row[j] = std::min({row[j] + 1, row[j - 1] + 1, replaced});
    }
  }
  return row[b.size()];
}

}  // namespace

std::string NearestName(std::string_view name, const std::set<std::string, std::less<>>& known) {
  std::string nearest;
  size_t best = name.size() / 3 + 1;
  for (const std::string& candidate : known) {
    const size_t distance = EditDistance(name, candidate);
    if (distance < best) {
      best = distance;
      nearest = candidate;
    }
  }
  return nearest;
}

ConfigFields::ConfigFields(const nlohmann::json& object, std::string where)
    : object_(object), where_(std::move(where)) {}

void ConfigFields::Fail(absl::Status status) {
  if (status_.ok()) status_ = std::move(status);
}

const nlohmann::json& ConfigFields::Raw(std::string_view name) {
  known_.emplace(name);
  const auto it = object_.find(std::string(name));
  return it == object_.end() ? kNull : *it;
}

bool ConfigFields::Has(std::string_view name) { return !Raw(name).is_null(); }

std::string ConfigFields::Found(std::string_view name) const {
  const auto it = object_.find(std::string(name));
  if (it == object_.end()) return "missing";
  std::string text =
      it->dump(-1, ' ', /*ensure_ascii=*/true, nlohmann::json::error_handler_t::replace);
  if (text.size() > 100) text = text.substr(0, 100) + "...";
  return text;
}

void ConfigFields::Unsupported(std::string_view name, const std::string& supported) {
  Fail(absl::UnimplementedError(absl::StrCat(where_, ": ", std::string(name), " is ", Found(name),
                                             ", which changes the computation and is not "
                                             "supported; supported: ",
                                             supported)));
}

void ConfigFields::Invalid(std::string_view name, const std::string& wanted) {
  Fail(absl::InvalidArgumentError(absl::StrCat(where_, ": ", std::string(name), " is ", Found(name),
                                               ", wanted ", wanted, "; correct the file")));
}

int64_t ConfigFields::Integer(std::string_view name, IntegerRange range) {
  if (!Has(name)) {
    Invalid(name, "an integer");
    return range.min;
  }
  return IntegerOr(name, range.min, range);
}

int64_t ConfigFields::IntegerOr(std::string_view name, int64_t fallback, IntegerRange range) {
  const nlohmann::json& value = Raw(name);
  if (value.is_null()) return fallback;
  const bool fits = value.is_number_unsigned()
                        ? value.get<uint64_t>() <= static_cast<uint64_t>(range.max) &&
                              static_cast<int64_t>(value.get<uint64_t>()) >= range.min
                        : value.is_number_integer() && value.get<int64_t>() >= range.min &&
                              value.get<int64_t>() <= range.max;
  if (!fits) {
    Invalid(name, absl::StrCat("an integer from ", range.min, " to ", range.max));
    return range.min;
  }
  return value.get<int64_t>();
}

double ConfigFields::NumberOr(std::string_view name, double fallback, bool zero_allowed) {
  const nlohmann::json& value = Raw(name);
  if (value.is_null()) return fallback;
  const double number = value.is_number() ? value.get<double>() : -1;
  using Float = std::numeric_limits<float>;
  if (!(number == 0 ? zero_allowed : number >= Float::min() && number <= Float::max())) {
    Invalid(name, absl::StrCat(zero_allowed ? "a number of at least 0" : "a number above 0",
                               " that a 32-bit float can hold"));
    return fallback;
  }
  return number;
}

double ConfigFields::PositiveOr(std::string_view name, double fallback) {
  return NumberOr(name, fallback, /*zero_allowed=*/false);
}

double ConfigFields::NonNegativeOr(std::string_view name, double fallback) {
  return NumberOr(name, fallback, /*zero_allowed=*/true);
}

bool ConfigFields::BoolOr(std::string_view name, bool fallback) {
  const nlohmann::json& value = Raw(name);
  if (value.is_null()) return fallback;
  if (!value.is_boolean()) {
    Invalid(name, "true or false");
    return fallback;
  }
  return value.get<bool>();
}

std::string ConfigFields::TextOr(std::string_view name, std::string_view fallback) {
  const nlohmann::json& value = Raw(name);
  if (value.is_null()) return std::string(fallback);
  if (!value.is_string()) {
    Invalid(name, "a string");
    return std::string(fallback);
  }
  return value.get<std::string>();
}

std::vector<int64_t> ConfigFields::IntegersOr(std::string_view name,
                                              std::vector<int64_t> fallback) {
  const nlohmann::json& value = Raw(name);
  if (value.is_null()) return fallback;
  std::vector<int64_t> numbers;
  const auto is_integer = [](const nlohmann::json& item) { return item.is_number_integer(); };
  if (!value.is_array() || !std::all_of(value.begin(), value.end(), is_integer)) {
    Invalid(name, "a list of integers");
    return fallback;
  }
  for (const nlohmann::json& item : value) numbers.push_back(item.get<int64_t>());
  return numbers;
}

void ConfigFields::OnlyText(std::string_view name,
                            std::initializer_list<std::string_view> supported) {
  if (!Has(name)) return;
  const std::string text = TextOr(name, "");
  if (!status_.ok() || std::find(supported.begin(), supported.end(), text) != supported.end()) {
    return;
  }
  const auto quote = [](std::string* out, std::string_view value) {
    absl::StrAppend(out, "\"", std::string(value), "\"");
  };
  Unsupported(name, absl::StrJoin(supported, ", ", quote));
}

void ConfigFields::OnlyBool(std::string_view name, bool supported) {
  if (BoolOr(name, supported) != supported) Unsupported(name, supported ? "true" : "false");
}

void ConfigFields::OnlyNumber(std::string_view name, double supported) {
  const nlohmann::json& value = Raw(name);
  if (value.is_null() || (value.is_number() && value.get<double>() == supported)) return;
  Unsupported(name, absl::StrCat(supported));
}

void ConfigFields::Inert(std::initializer_list<std::string_view> names) {
  known_.insert(names.begin(), names.end());
}

absl::Status ConfigFields::Finish(bool strict, std::vector<std::string>* warnings) {
  if (!status_.ok()) return status_;
  for (const auto& [name, value] : object_.items()) {
    if (known_.contains(name)) continue;
    const std::string nearest = NearestName(name, known_);
    const std::string hint = nearest.empty() ? "" : absl::StrCat(" (did you mean ", nearest, "?)");
    if (strict) {
      return absl::InvalidArgumentError(
          absl::StrCat(where_, ": ", name, " is an unknown field", hint,
                       "; remove it, or drop --strict-config if it changes nothing"));
    }
    if (warnings != nullptr) {
      warnings->push_back(
          absl::StrCat(where_, ": ", name, " is an unknown field and is ignored", hint));
    }
  }
  return absl::OkStatus();
}

}  // namespace conclave::weights

// Reads the fields of one JSON object of a config.json and remembers the first thing that is wrong.
//
// Used while a model config is built: each field is read once, with its type and range, so that at
// the end every field of the file has been read, is known to be inert, or is unknown. After an
// error, readers return their fallback or their minimum, and status() tells.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <limits>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"

namespace conclave::weights {

struct IntegerRange {
  int64_t min = 1;
  int64_t max = std::numeric_limits<int32_t>::max();
};

class ConfigFields {
 public:
  // `where` names the object in messages: "/models/x/config.json" or "...: rope_scaling".
  // `object` outlives this.
  ConfigFields(const nlohmann::json& object, std::string where);

  // Present and not null. Counts as read.
  bool Has(std::string_view name);

  // Required fields.
  int64_t Integer(std::string_view name, IntegerRange range);

  // Absent and null mean `fallback`.
  int64_t IntegerOr(std::string_view name, int64_t fallback, IntegerRange range);
  // Numbers must be neither too large nor too small for f32, in which most are used.
  double PositiveOr(std::string_view name, double fallback);     // > 0
  double NonNegativeOr(std::string_view name, double fallback);  // >= 0
  bool BoolOr(std::string_view name, bool fallback);
  std::string TextOr(std::string_view name, std::string_view fallback);
  std::vector<int64_t> IntegersOr(std::string_view name, std::vector<int64_t> fallback);

  // The value as it is, or null. Counts as read.
  const nlohmann::json& Raw(std::string_view name);

  // Records UNIMPLEMENTED unless the text (number, flag) is one of those supported; absent and null
  // pass.
  void OnlyText(std::string_view name, std::initializer_list<std::string_view> supported);
  void OnlyBool(std::string_view name, bool supported);
  void OnlyNumber(std::string_view name, double supported);

  // Fields that do not change the computation, whatever they say.
  void Inert(std::initializer_list<std::string_view> names);

  // Records an error about a field: UNIMPLEMENTED with what is supported, or INVALID_ARGUMENT.
  void Unsupported(std::string_view name, const std::string& supported);
  void Invalid(std::string_view name, const std::string& wanted);
  // Records any error; the first one stays.
  void Fail(absl::Status status);

  const absl::Status& status() const { return status_; }

  // The recorded error; else each field never read is a line in `warnings`, or, when strict, an
  // error naming the nearest known field.
  absl::Status Finish(bool strict, std::vector<std::string>* warnings);

 private:
  double NumberOr(std::string_view name, double fallback, bool zero_allowed);
  std::string Found(std::string_view name) const;

  const nlohmann::json& object_;
  std::string where_;
  std::set<std::string, std::less<>> known_;
  absl::Status status_;
};

// The name in `known` with the smallest edit distance to `name`, if that is at most a third of its
// length; else "".
std::string NearestName(std::string_view name, const std::set<std::string, std::less<>>& known);

}  // namespace conclave::weights

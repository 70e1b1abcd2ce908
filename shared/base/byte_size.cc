#include "shared/base/byte_size.h"

#include <array>
#include <charconv>
#include <cmath>
#include <cstdio>

#include "absl/strings/str_cat.h"

namespace conclave {
namespace {

struct Unit {
  std::string_view suffix;
  double bytes;
};
constexpr std::array<Unit, 10> kUnits = {{{"", 1},
                                          {"B", 1},
                                          {"KB", 1e3},
                                          {"MB", 1e6},
                                          {"GB", 1e9},
                                          {"TB", 1e12},
                                          {"KiB", 1024.0},
                                          {"MiB", 1048576.0},
                                          {"GiB", 1073741824.0},
                                          {"TiB", 1099511627776.0}}};
constexpr double kLargest = 4.6e18;  // below 2^62: sums of two still fit

}  // namespace

absl::StatusOr<int64_t> ParseByteSize(std::string_view text) {
  if (text == "auto") return 0;
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string_view suffix(end, text.data() + text.size() - end);
  if (suffix.starts_with(' ')) suffix.remove_prefix(1);
  if (error == std::errc() && std::isfinite(number) && number >= 0) {
    for (const Unit& unit : kUnits) {
      if (unit.suffix == suffix && number * unit.bytes < kLargest) {
        return static_cast<int64_t>(number * unit.bytes);
      }
    }
  }
  return absl::InvalidArgumentError(
      absl::StrCat("\"", absl::string_view(text.data(), text.size()),
                   "\" is not a number of bytes; write it as 512MiB, 2GiB, 1e9 or auto"));
}

std::string FormatBytes(int64_t bytes) {
  constexpr std::array<const char*, 5> kNames = {"B", "KiB", "MiB", "GiB", "TiB"};
  double value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1023.5 && unit + 1 < kNames.size()) {
    value /= 1024;
    ++unit;
  }
  char text[32];
  const bool fraction = unit >= 3 && value < 99.95;
  std::snprintf(text, sizeof(text), fraction ? "%.1f %s" : "%.0f %s", value, kNames[unit]);
  return text;
}

}  // namespace conclave

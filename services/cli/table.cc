#include "services/cli/table.h"

#include <string.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <ctime>

#include "absl/strings/str_cat.h"

namespace conclave::cli {
namespace {

// Columns as a terminal counts them: UTF-8 continuation bytes take none.
size_t Width(const std::string& text) {
  return static_cast<size_t>(std::count_if(text.begin(), text.end(), [](char c) {
    return (static_cast<unsigned char>(c) & 0xC0) != 0x80;
  }));
}

}  // namespace

std::string FormatTable(const std::vector<std::vector<std::string>>& rows) {
  if (rows.empty()) return "";
  std::vector<size_t> widths(rows.front().size(), 0);
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], Width(row[i]));
  }
  std::string text;
  for (const auto& row : rows) {
    for (size_t i = 0; i < row.size(); ++i) {
      text += row[i];
      if (i + 1 < row.size()) text.append(widths[i] - Width(row[i]) + 2, ' ');
    }
    text += '\n';
  }
  return text;
}

std::string FormatSeconds(double seconds) {
  char text[48];
  if (seconds < 9.95) {
    std::snprintf(text, sizeof(text), "%.1f s", seconds);
  } else if (seconds < 59.5) {
    std::snprintf(text, sizeof(text), "%.0f s", seconds);
  } else {
    const auto whole = static_cast<int64_t>(seconds + 0.5);
    std::snprintf(text, sizeof(text), "%d min %d s", static_cast<int>(whole / 60),
                  static_cast<int>(whole % 60));
  }
  return text;
}

std::string FormatClock(int64_t unix_ms) {
  const std::time_t seconds = unix_ms / 1000;
  std::tm local{};
  localtime_r(&seconds, &local);
  char text[48];
  std::snprintf(text, sizeof(text), "%02d:%02d:%02d.%03d", local.tm_hour, local.tm_min,
                local.tm_sec, static_cast<int>(unix_ms % 1000));
  return text;
}

std::string FormatMoment(int64_t unix_ms, int64_t now_unix_ms) {
  const auto date = [](int64_t moment_ms) {
    const std::time_t seconds = moment_ms / 1000;
    std::tm local{};
    localtime_r(&seconds, &local);
    char text[32];
    return std::string(text, std::strftime(text, sizeof(text), "%Y-%m-%d ", &local));
  };
  const std::string day = date(unix_ms);
  return absl::StrCat(day == date(now_unix_ms) ? "" : day, FormatClock(unix_ms));
}

int64_t UnixMs() {
  return std::chrono::duration_cast<std::chrono::milliseconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::string SignalName(int number) {
  const char* name = sigabbrev_np(number);
  return name == nullptr ? absl::StrCat("signal ", number) : absl::StrCat("SIG", name);
}

std::string Count(int64_t number, const std::string& noun) {
  return absl::StrCat(number, " ", noun, number == 1 ? "" : noun.ends_with("s") ? "es" : "s");
}

}  // namespace conclave::cli

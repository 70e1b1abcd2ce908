// Text for people: aligned tables, durations, clock times, and the names of signals.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

namespace conclave::cli {

// Rows of equal length, the first one the heading; columns are two spaces apart, the last is not
// padded.
std::string FormatTable(const std::vector<std::vector<std::string>>& rows);

// "0.9 s", "12 s", "9 min 58 s".
std::string FormatSeconds(double seconds);

// Local time of day, "12:04:31.402".
std::string FormatClock(int64_t unix_ms);

// FormatClock of a moment of today, with the date before it of any other: "2026-01-31
// 12:04:31.402".
std::string FormatMoment(int64_t unix_ms, int64_t now_unix_ms);

int64_t UnixMs();

// "SIGKILL".
std::string SignalName(int number);

// "1 engine", "2 engines".
std::string Count(int64_t number, const std::string& noun);

}  // namespace conclave::cli

// The process's log: one line an event on standard error, as text or as JSON.
//
// The one process-wide object of Conclave, because every thread of every part may have something to
// say. Never log prompts, answers, token ids or secrets: a request appears as its id (field
// "request_id") and its counts.
#pragma once

#include <cstdint>
#include <initializer_list>
#include <string>
#include <string_view>
#include <variant>

#include "absl/status/status.h"

namespace conclave {

enum class LogLevel { kDebug, kInfo, kWarning, kError };

// A named value of a log line.
struct LogField {
  using Value = std::variant<std::string, int64_t, double, bool>;

  LogField(std::string_view name, std::string_view value) : name(name), value(std::string(value)) {}
  LogField(std::string_view name, const std::string& value) : name(name), value(value) {}
  LogField(std::string_view name, const char* value) : name(name), value(std::string(value)) {}
  LogField(std::string_view name, bool value) : name(name), value(value) {}
  LogField(std::string_view name, double value) : name(name), value(value) {}
  template <typename Integer>
    requires std::is_integral_v<Integer>
  LogField(std::string_view name, Integer value) : name(name), value(static_cast<int64_t>(value)) {}

  std::string_view name;
  Value value;
};

// `process`: the member's name ("engine-0"). level: debug, info, warning, error; format: text,
// json. Before this call lines of level info and above go out as text.
absl::Status StartLog(std::string_view process, std::string_view level, std::string_view format);

// Whether lines of this level go out: for those whose fields are worth a question. Thread-safe.
bool LogsLevel(LogLevel level);

// Thread-safe. Text: "2026-01-31T12:04:31.402Z info engine-0: message name=value". A field whose
// text is empty is left out.
void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields = {});

inline void LogDebug(std::string_view message, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kDebug, message, fields);
}
inline void LogInfo(std::string_view message, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kInfo, message, fields);
}
inline void LogWarning(std::string_view message, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kWarning, message, fields);
}
inline void LogError(std::string_view message, std::initializer_list<LogField> fields = {}) {
  Log(LogLevel::kError, message, fields);
}

}  // namespace conclave

#include "shared/base/log.h"

#include <atomic>
#include <memory>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "spdlog/details/os.h"
#include "spdlog/formatter.h"
#include "spdlog/sinks/stdout_sinks.h"
#include "spdlog/spdlog.h"

namespace conclave {
namespace {

// Passed to Log beside spdlog; set once by StartLog, before threads.
std::atomic<bool> json_format{false};

// "2026-01-31T12:04:31.402Z"
std::string Timestamp(spdlog::log_clock::time_point time) {
  const std::tm utc = spdlog::details::os::gmtime(spdlog::log_clock::to_time_t(time));
  const auto ms =
      std::chrono::duration_cast<std::chrono::milliseconds>(time.time_since_epoch()).count() % 1000;
  char text[32];
  const size_t length = std::strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &utc);
  std::snprintf(text + length, sizeof(text) - length, ".%03dZ", static_cast<int>(ms));
  return text;
}

const char* LevelName(spdlog::level::level_enum level) {
  switch (level) {
    case spdlog::level::trace:
    case spdlog::level::debug:
      return "debug";
    case spdlog::level::info:
      return "info";
    case spdlog::level::warn:
      return "warning";
    default:
      return "error";
  }
}

std::string Quoted(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

// The payload of a text line is its finished tail; that of a JSON line, the members after
// "process".
class LineFormatter final : public spdlog::formatter {
 public:
  explicit LineFormatter(std::string process) : process_(std::move(process)) {}

  void format(const spdlog::details::log_msg& message, spdlog::memory_buf_t& out) override {
    const std::string_view payload(message.payload.data(), message.payload.size());
    const std::string line =
        json_format.load()
            ? absl::StrCat("{\"time\":\"", Timestamp(message.time), "\",\"level\":\"",
                           LevelName(message.level), "\",\"process\":", Quoted(process_), ",",
                           std::string(payload), "}\n")
            : absl::StrCat(Timestamp(message.time), " ", LevelName(message.level), " ", process_,
                           process_.empty() ? "" : ": ", std::string(payload), "\n");
    out.append(line.data(), line.data() + line.size());
  }
  std::unique_ptr<spdlog::formatter> clone() const override {
    return std::make_unique<LineFormatter>(process_);
  }

 private:
  const std::string process_;
};

void Install(const std::string& process, spdlog::level::level_enum level) {
  auto logger = std::make_shared<spdlog::logger>("conclave",
                                                 std::make_shared<spdlog::sinks::stderr_sink_mt>());
  logger->set_formatter(std::make_unique<LineFormatter>(process));
  logger->set_level(level);
  logger->flush_on(spdlog::level::debug);
  spdlog::set_default_logger(std::move(logger));
}

spdlog::level::level_enum ToSpdlog(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarning:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

bool IsEmpty(const LogField& field) {
  const std::string* text = std::get_if<std::string>(&field.value);
  return text != nullptr && text->empty();
}

nlohmann::json ToJson(const LogField::Value& value) {
  return std::visit([](const auto& held) { return nlohmann::json(held); }, value);
}

std::string ToText(const LogField::Value& value) {
  const std::string* text = std::get_if<std::string>(&value);
  if (text == nullptr) return ToJson(value).dump();
  const bool plain = text->find_first_of(" \t\r\n\"=") == std::string::npos;
  return plain ? *text : Quoted(*text);
}

// One line stays one line, whatever the message holds.
std::string OneLine(std::string_view message) {
  std::string line(message);
  for (char& c : line) {
    if (static_cast<unsigned char>(c) < 0x20) c = ' ';
  }
  return line;
}

}  // namespace

absl::Status StartLog(std::string_view process, std::string_view level, std::string_view format) {
  spdlog::level::level_enum spdlog_level;
  if (level == "debug") {
    spdlog_level = spdlog::level::debug;
  } else if (level == "info") {
    spdlog_level = spdlog::level::info;
  } else if (level == "warning") {
    spdlog_level = spdlog::level::warn;
  } else if (level == "error") {
    spdlog_level = spdlog::level::err;
  } else {
    return absl::InvalidArgumentError(absl::StrCat("log_level is \"", std::string(level),
                                                   "\"; it may be debug, info, warning or error"));
  }
  if (format != "text" && format != "json") {
    return absl::InvalidArgumentError(
        absl::StrCat("log_format is \"", std::string(format), "\"; it may be text or json"));
  }
  json_format.store(format == "json");
  Install(std::string(process), spdlog_level);
  return absl::OkStatus();
}

bool LogsLevel(LogLevel level) { return spdlog::default_logger_raw()->should_log(ToSpdlog(level)); }

void Log(LogLevel level, std::string_view message, std::initializer_list<LogField> fields) {
  static const bool installed = [] {
    if (spdlog::default_logger()->name() != "conclave") Install("", spdlog::level::info);
    return true;
  }();
  (void)installed;
  const spdlog::level::level_enum spdlog_level = ToSpdlog(level);
  if (!spdlog::should_log(spdlog_level)) return;
  std::string line;
  if (json_format.load()) {
    line = absl::StrCat("\"message\":", Quoted(std::string(message)));
    for (const LogField& field : fields) {
      if (IsEmpty(field)) continue;
      const nlohmann::json value = ToJson(field.value);
      absl::StrAppend(&line, ",", Quoted(std::string(field.name)), ":",
                      value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace));
    }
  } else {
    line = OneLine(message);
    for (const LogField& field : fields) {
      if (IsEmpty(field)) continue;
      absl::StrAppend(&line, " ", std::string(field.name), "=", ToText(field.value));
    }
  }
  spdlog::default_logger_raw()->log(spdlog_level, spdlog::string_view_t(line));
}

}  // namespace conclave

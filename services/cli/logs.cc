// `conclave logs [NAME] [-f]`: the processes' logs, merged by time.
#include <poll.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <limits>

#include "CLI/CLI.hpp"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "services/cli/command.h"
#include "services/cli/hint.h"
#include "shared/base/nearest.h"
#include "shared/base/signals.h"

namespace conclave::cli {
namespace {

namespace fs = std::filesystem;

constexpr Duration kFollowPeriod = std::chrono::milliseconds(200);

// One log that is read as it grows.
class LogFile {
 public:
  explicit LogFile(std::string path) : path_(std::move(path)) {}

  // The complete lines since the last call; from the beginning again when the file was replaced.
  std::vector<std::string> ReadNew() {
    std::ifstream file(path_, std::ios::binary | std::ios::ate);
    if (!file) return {};
    const std::streamoff size = file.tellg();
    if (size < offset_) offset_ = 0;
    file.seekg(offset_);
    std::vector<std::string> lines;
    std::string line;
    while (std::getline(file, line) && !file.eof()) {
      offset_ += static_cast<std::streamoff>(line.size()) + 1;
      lines.push_back(line);
    }
    return lines;
  }

 private:
  std::string path_;
  std::streamoff offset_ = 0;
};

class LogsCommand final : public Command {
 public:
  const char* name() const override { return "logs"; }
  const char* summary() const override { return "the processes' logs"; }
  void AddFlags(CLI::App& app) override {
    app.add_option("process", process_, "gateway, engine-0, ...; default: all, merged by time")
        ->type_name("");
    app.add_flag("-f,--follow", follow_, "go on with what is written, until Ctrl-C");
    app.add_option("--last", last_, "how many lines; 0: all")
        ->check(CLI::Range(0, std::numeric_limits<int>::max()))
        ->option_text("N [100]");
  }
  int Run(const Context& context) override;

 private:
  std::string process_;
  bool follow_ = false;
  int last_ = 100;
};

// Text lines start with their time and JSON lines with it too, so the order of texts is that of
// times; a line without a time (a crash's last words) stays behind the one before it.
std::vector<std::string> Merge(std::vector<LogFile>& files) {
  std::vector<std::pair<std::string, std::string>> keyed;
  for (LogFile& file : files) {
    std::string key;
    for (const std::string& line : file.ReadNew()) {
      const size_t digit = line.find_first_of("0123456789");
      if (digit != std::string::npos && digit < 12 && line.size() > digit + 24) {
        key = line.substr(digit, 24);
      }
      keyed.emplace_back(key, line);
    }
  }
  std::stable_sort(keyed.begin(), keyed.end(),
                   [](const auto& a, const auto& b) { return a.first < b.first; });
  std::vector<std::string> lines;
  for (auto& [key, line] : keyed) lines.push_back(std::move(line));
  return lines;
}

// Whether nobody reads what is written any more: logs that are quiet would not find out by writing.
bool OutputClosed() {
  pollfd output = {STDOUT_FILENO, 0, 0};
  return poll(&output, 1, 0) > 0 && (output.revents & (POLLERR | POLLNVAL)) != 0;
}

int LogsCommand::Run(const Context& context) {
  std::vector<LogFile> files;
  std::vector<std::string> names;
  std::error_code error;
  for (const auto& entry : fs::directory_iterator(context.state_dir + "/logs", error)) {
    if (entry.path().extension() != ".log") continue;
    names.push_back(entry.path().stem().string());
    if (process_.empty() || names.back() == process_) {
      files.emplace_back(entry.path().string());
    }
  }
  if (names.empty()) {
    return Fail(absl::FailedPreconditionError(
        absl::StrCat("no logs in ", context.state_dir,
                     "/logs; start a cluster: ", Hint("up -d", context.state_dir))));
  }
  std::sort(names.begin(), names.end());
  if (files.empty()) {
    return Fail(absl::InvalidArgumentError(
        absl::StrCat("no process \"", process_, "\"; the nearest is ", NearestOf(process_, names),
                     ", all are ", absl::StrJoin(names, ", "))));
  }
  const std::vector<std::string> lines = Merge(files);
  const size_t skipped =
      last_ > 0 && lines.size() > static_cast<size_t>(last_) ? lines.size() - last_ : 0;
  for (size_t i = skipped; i < lines.size(); ++i) std::printf("%s\n", lines[i].c_str());
  if (!follow_) return kExitOk;
  StopSignals signals;
  signal(SIGPIPE, SIG_DFL);
  std::fflush(stdout);
  while (!signals.WaitFor(kFollowPeriod) && !OutputClosed()) {
    for (const std::string& line : Merge(files)) std::printf("%s\n", line.c_str());
    std::fflush(stdout);
  }
  return kExitOk;
}

}  // namespace

std::unique_ptr<Command> MakeLogsCommand() { return std::make_unique<LogsCommand>(); }

}  // namespace conclave::cli

#include "services/cli/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>

#include "absl/strings/str_cat.h"
#include "nlohmann/json.hpp"
#include "services/cli/table.h"

namespace conclave::cli {
namespace {

constexpr std::streamoff kTailBytes = 4096;
constexpr size_t kLongestLine = 400;

}  // namespace

absl::StatusOr<pid_t> StartChild(const ChildSpec& spec) {
  std::vector<char*> argv;
  argv.push_back(const_cast<char*>(spec.program.c_str()));
  for (const std::string& flag : spec.flags) argv.push_back(const_cast<char*>(flag.c_str()));
  argv.push_back(nullptr);

  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, spec.input.c_str(), O_RDONLY, 0);
  posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, spec.log.c_str(),
                                   O_WRONLY | O_CREAT | O_APPEND, 0600);
  if (!spec.in_foreground) {
    posix_spawn_file_actions_adddup2(&actions, STDOUT_FILENO, STDERR_FILENO);
  }

  posix_spawnattr_t attributes;
  posix_spawnattr_init(&attributes);
  sigset_t none, defaults;
  sigemptyset(&none);
  sigemptyset(&defaults);
  for (const int number : {SIGINT, SIGTERM, SIGPIPE, SIGHUP}) sigaddset(&defaults, number);
  posix_spawnattr_setsigmask(&attributes, &none);
  posix_spawnattr_setsigdefault(&attributes, &defaults);
  short set = POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF;
  if (!spec.in_foreground) set |= POSIX_SPAWN_SETPGROUP;
  posix_spawnattr_setpgroup(&attributes, 0);
  posix_spawnattr_setflags(&attributes, set);
  pid_t pid = 0;
  const int error =
      posix_spawn(&pid, spec.program.c_str(), &actions, &attributes, argv.data(), environ);
  posix_spawnattr_destroy(&attributes);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    return absl::UnavailableError(absl::StrCat(
        "cannot start ", spec.program, " with its log in ", spec.log, ": ", std::strerror(error),
        "; build all programs (ci/quickstart.sh) and check the folder's rights"));
  }
  return pid;
}

std::string ChildEnd::ToString() const {
  return signal != 0 ? absl::StrCat("ended by ", SignalName(signal))
                     : absl::StrCat("ended with exit code ", exit_code);
}

std::optional<ChildEnd> PollChild(pid_t pid) {
  int status = 0;
  const pid_t found = waitpid(pid, &status, WNOHANG);
  if (found != pid) return std::nullopt;
  ChildEnd end;
  if (WIFSIGNALED(status)) {
    end.signal = WTERMSIG(status);
  } else {
    end.exit_code = WEXITSTATUS(status);
  }
  return end;
}

std::string LastLogLine(const std::string& path) {
  std::ifstream file(path, std::ios::binary | std::ios::ate);
  if (!file) return "";
  const std::streamoff size = file.tellg();
  file.seekg(std::max<std::streamoff>(0, size - kTailBytes));
  std::string line, last;
  while (std::getline(file, line)) {
    while (!line.empty() && (line.back() == '\r' || line.back() == ' ')) line.pop_back();
    if (!line.empty()) last = line;
  }
  if (last.size() > kLongestLine) last = last.substr(0, kLongestLine) + "...";
  return last;
}

std::string LastError(const std::string& path) {
  const std::string line = LastLogLine(path);
  // As shared/base/log.h writes them: {"time":...,"level":"error",...,"message":"..."} and
  // "2026-01-31T12:04:31.402Z error engine-0: message".
  if (line.starts_with("{\"time\":")) {
    const nlohmann::json value = nlohmann::json::parse(line, nullptr, false);
    if (!value.is_object()) return "";  // too long to be read whole
    return value.value("level", "") == "error" ? value.value("message", "") : "";
  }
  constexpr size_t kTimeLength = sizeof("2026-01-31T12:04:31.402Z") - 1;
  const bool logged = line.size() > kTimeLength && line[4] == '-' && line[10] == 'T' &&
                      line[kTimeLength - 1] == 'Z';
  if (!logged) return line;
  const size_t message = line.find(": ");
  if (line.compare(kTimeLength, 7, " error ") != 0 || message == std::string::npos) return "";
  return line.substr(message + 2);
}

}  // namespace conclave::cli

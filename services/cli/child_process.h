// A child with its output in a file: starting, signalling and reaping it.
//
// Used by one thread: the supervisor's, or a command's.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace conclave::cli {

struct ChildSpec {
  std::string program;  // path
  std::vector<std::string> flags;
  std::string log;                  // standard output and error are appended here
  std::string input = "/dev/null";  // standard input
  // Standard error and the process group are the caller's: what the child says there is seen, and
  // Ctrl-C ends it, too.
  bool in_foreground = false;
};

// Starts it with default signals, in its own process group (so that a terminal's Ctrl-C reaches the
// supervisor alone, which drains) unless it is in the foreground. UNAVAILABLE names the program and
// the system's reason.
absl::StatusOr<pid_t> StartChild(const ChildSpec& spec);

// How a child ended.
struct ChildEnd {
  int exit_code = 0;
  int signal = 0;  // not 0: ended by it
  bool clean() const { return exit_code == 0 && signal == 0; }
  std::string ToString() const;  // "ended by SIGKILL", "ended with exit code 1"
};

// nullopt while it runs. Reaps it.
std::optional<ChildEnd> PollChild(pid_t pid);

// The last line that is not blank, without its end; at most 400 characters. Empty when there is
// none.
std::string LastLogLine(const std::string& path);

// Why a process may have ended, from the last line of its log: the message of an error, or a line
// that the log did not write (a crash's last words). Empty for a line of another level: what was
// done last is no cause.
std::string LastError(const std::string& path);

}  // namespace conclave::cli

// A process and a folder that last as long as an object.
#pragma once

#include <sys/types.h>

#include <memory>
#include <optional>
#include <string>

#include "absl/status/statusor.h"
#include "services/cli/child_process.h"

namespace conclave::cli {

// In the system's folder for temporary files; removed with all it holds.
class TemporaryFolder {
 public:
  TemporaryFolder();
  ~TemporaryFolder();
  TemporaryFolder(const TemporaryFolder&) = delete;
  TemporaryFolder& operator=(const TemporaryFolder&) = delete;
  // Empty when none could be made.
  const std::string& path() const { return path_; }

 private:
  std::string path_;
};

// This program, run with other arguments.
class Child {
 public:
  static absl::StatusOr<std::unique_ptr<Child>> Start(std::vector<std::string> arguments,
                                                      const std::string& log);
  // SIGTERM; SIGKILL when it has not ended half a minute later.
  ~Child();
  Child(const Child&) = delete;
  Child& operator=(const Child&) = delete;

  pid_t pid() const { return pid_; }
  bool running();
  // UNAVAILABLE: that it has ended, how, and its last line.
  absl::Status WhyEnded() const;

 private:
  Child(pid_t pid, std::string log) : pid_(pid), log_(std::move(log)) {}
  const pid_t pid_;
  const std::string log_;
  std::optional<ChildEnd> end_;
};

}  // namespace conclave::cli

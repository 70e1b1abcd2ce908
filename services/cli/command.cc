#include "services/cli/command.h"

#include <sys/stat.h>
#include <unistd.h>

#include <cstdio>

#include "absl/strings/str_cat.h"

namespace conclave::cli {

int Fail(const absl::Status& status) {
  const bool local = status.code() == absl::StatusCode::kInvalidArgument ||
                     status.code() == absl::StatusCode::kFailedPrecondition;
  const std::string message(status.message().data(), status.message().size());
  std::fflush(stdout);
  if (local) {
    std::fprintf(stderr, "error: %s\n", message.c_str());
  } else {
    std::fprintf(stderr, "error: %s: %s\n", absl::StatusCodeToString(status.code()).c_str(),
                 message.c_str());
  }
  if (status.code() == absl::StatusCode::kInvalidArgument) return kExitUsage;
  if (status.code() == absl::StatusCode::kFailedPrecondition) return kExitNotRunning;
  return kExitFailed;
}

int WithOutputWritten(int code) {
  const bool written = std::fflush(stdout) == 0 && std::ferror(stdout) == 0;
  struct stat output = {};
  const bool piped =
      fstat(STDOUT_FILENO, &output) != 0 || S_ISFIFO(output.st_mode) || S_ISSOCK(output.st_mode);
  if (written || piped || code != kExitOk) return code;
  return Fail(absl::DataLossError("standard output could not be written whole; is the disk full?"));
}

}  // namespace conclave::cli

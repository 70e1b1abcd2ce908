#include "services/cli/gateway_bench/process_cost.h"

#include <unistd.h>

#include <ctime>
#include <fstream>

#include "absl/strings/str_cat.h"

namespace conclave::cli {
namespace {

absl::Status Gone(int64_t pid) {
  return absl::NotFoundError(absl::StrCat("process ", pid, " has ended while it was measured"));
}

}  // namespace

absl::StatusOr<double> CpuSeconds(int64_t pid) {
  clockid_t clock = 0;
  timespec used{};
  if (clock_getcpuclockid(static_cast<pid_t>(pid), &clock) != 0 ||
      clock_gettime(clock, &used) != 0) {
    return Gone(pid);
  }
  return static_cast<double>(used.tv_sec) + 1e-9 * static_cast<double>(used.tv_nsec);
}

absl::StatusOr<int64_t> ResidentBytes(int64_t pid) {
  std::ifstream file(absl::StrCat("/proc/", pid, "/statm"));
  int64_t size = 0, resident = 0;
  if (!(file >> size >> resident)) return Gone(pid);
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace conclave::cli

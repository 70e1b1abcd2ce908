#include "services/cli/bench_cluster/process_cost.h"

#include <unistd.h>

#include <ctime>
#include <fstream>
#include <sstream>
#include <string>

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

absl::StatusOr<SharedMemoryUse> MemoryUse(int64_t pid) {
  constexpr int64_t kKib = 1024;
  std::ifstream file(absl::StrCat("/proc/", pid, "/smaps_rollup"));
  SharedMemoryUse use;
  std::string line, name;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    int64_t kib = 0;
    if (!(words >> name >> kib)) continue;
    if (name == "Pss:") use.proportional = kib * kKib;
    if (name == "Anonymous:") use.anonymous = kib * kKib;
  }
  if (use.proportional == 0) {
    return absl::UnavailableError(
        absl::StrCat("/proc/", pid, "/smaps_rollup cannot be read, or the process has ended"));
  }
  return use;
}

}  // namespace conclave::cli

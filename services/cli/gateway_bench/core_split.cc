#include "services/cli/gateway_bench/core_split.h"

#include <dirent.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_cat.h"

namespace conclave::cli {
namespace {

absl::Status Use(int64_t pid, const cpu_set_t& cores) {
  const std::string folder = absl::StrCat("/proc/", pid, "/task");
  DIR* const tasks = opendir(folder.c_str());
  if (tasks == nullptr) return absl::NotFoundError(absl::StrCat("process ", pid, " has ended"));
  absl::Status status;
  while (const dirent* const entry = readdir(tasks)) {
    const auto task = static_cast<pid_t>(std::atoi(entry->d_name));
    if (task <= 0 || sched_setaffinity(task, sizeof cores, &cores) == 0 || errno == ESRCH) continue;
    status = absl::UnavailableError(
        absl::StrCat("the cores of process ", pid, " cannot be set: ", std::strerror(errno)));
  }
  closedir(tasks);
  return status;
}

}  // namespace

CoreHalves EnginesApart(std::span<const ProcessState> cluster) {
  CoreHalves halves;
  for (const ProcessState& process : cluster) {
    const bool computes = process.kind == "engine" || process.kind == "expert";
    (computes ? halves.first : halves.second).push_back(process.pid);
  }
  return halves;
}

CoreSplit::CoreSplit(const CoreHalves& halves) {
  CPU_ZERO(&before_);
  sched_getaffinity(0, sizeof before_, &before_);
  const int cores = CPU_COUNT(&before_);
  if (cores < 2) return;
  cpu_set_t first, second;
  CPU_ZERO(&first);
  CPU_ZERO(&second);
  int taken = 0;
  for (int core = 0; core < CPU_SETSIZE; ++core) {
    if (!CPU_ISSET(core, &before_)) continue;
    CPU_SET(core, taken++ < cores / 2 ? &first : &second);
  }
  for (const int64_t pid : halves.first) status_.Update(Use(pid, first));
  for (const int64_t pid : halves.second) status_.Update(Use(pid, second));
  status_.Update(Use(getpid(), second));
}

CoreSplit::~CoreSplit() { Use(getpid(), before_).IgnoreError(); }

}  // namespace conclave::cli

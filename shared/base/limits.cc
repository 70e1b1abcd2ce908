#include "shared/base/limits.h"

#include <sched.h>
#include <sys/resource.h>

#include <algorithm>
#include <charconv>
#include <cmath>
#include <fstream>
#include <optional>
#include <sstream>
#include <string_view>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "shared/base/byte_size.h"

namespace conclave {
namespace {

// A v1 group without a limit reports a huge number just below 2^63.
constexpr int64_t kUnlimited = int64_t{1} << 60;

std::optional<std::string> FirstLine(const std::string& path) {
  std::ifstream file(path);
  std::string line;
  if (!file || !std::getline(file, line)) return std::nullopt;
  return line;
}

std::optional<int64_t> ToNumber(std::string_view text) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size()) return std::nullopt;
  return value;
}

std::optional<int64_t> ReadNumber(const std::string& path) {
  const auto line = FirstLine(path);
  return line ? ToNumber(*line) : std::nullopt;
}

// The value of "name value [kB]" in a file such as /proc/meminfo or memory.stat.
std::optional<int64_t> ReadNamed(const std::string& path, std::string_view name) {
  std::ifstream file(path);
  std::string line;
  while (std::getline(file, line)) {
    std::istringstream words(line);
    std::string key, number;
    words >> key >> number;
    if (key == name) return ToNumber(number);
  }
  return std::nullopt;
}

// The folders of this process's group and all groups above it, as far as they are mounted,
// innermost first. `controller` is "cpu" or "memory"; of version 2 if `unified`.
std::vector<std::string> GroupFolders(const std::string& root, const std::string& controller,
                                      bool unified) {
  std::string group;
  bool found = false;
  std::ifstream groups(root + "/proc/self/cgroup");
  std::string line;
  while (std::getline(groups, line)) {
    const std::vector<std::string> parts = absl::StrSplit(line, absl::MaxSplits(':', 2));
    if (parts.size() != 3) continue;
    const std::vector<std::string> names = absl::StrSplit(parts[1], ',');
    if (unified ? parts[0] == "0" && parts[1].empty()
                : std::find(names.begin(), names.end(), controller) != names.end()) {
      group = parts[2];
      found = true;
    }
  }
  if (!found) return {};

  std::ifstream mounts(root + "/proc/self/mountinfo");
  while (std::getline(mounts, line)) {
    // id parent major:minor root mount-point options [optional]... - type source super-options
    const std::vector<std::string> halves = absl::StrSplit(line, absl::MaxSplits(" - ", 1));
    if (halves.size() != 2) continue;
    const std::vector<std::string> left = absl::StrSplit(halves[0], ' ');
    const std::vector<std::string> right = absl::StrSplit(halves[1], ' ');
    if (left.size() < 5 || right.size() < 3) continue;
    const std::vector<std::string> super = absl::StrSplit(right[2], ',');
    const bool matches = unified ? right[0] == "cgroup2"
                                 : right[0] == "cgroup" && std::find(super.begin(), super.end(),
                                                                     controller) != super.end();
    if (!matches) continue;
    // In a container the mount may show only a part of the tree: `left[3]` is the group at its top.
    std::string path = group;
    if (left[3] != "/") {
      if (path == left[3]) {
        path = "/";
      } else if (path.starts_with(left[3] + "/")) {
        path = path.substr(left[3].size());
      } else {
        path = "/";
      }
    }
    const std::string top = root + left[4];
    std::vector<std::string> folders;
    while (path.size() > 1) {
      folders.push_back(top + path);
      path.resize(path.rfind('/'));
    }
    folders.push_back(top);
    return folders;
  }
  return {};
}

// Processors' worth of time that the files of `folder` allow; nullopt without a quota.
std::optional<double> QuotaOf(const std::string& folder, bool unified) {
  std::optional<int64_t> quota, period;
  if (unified) {
    const auto line = FirstLine(folder + "/cpu.max");
    if (!line) return std::nullopt;
    const std::vector<std::string> parts = absl::StrSplit(*line, ' ');
    if (parts.size() != 2) return std::nullopt;
    quota = ToNumber(parts[0]);  // "max": no number, no quota
    period = ToNumber(parts[1]);
  } else {
    quota = ReadNumber(folder + "/cpu.cfs_quota_us");
    period = ReadNumber(folder + "/cpu.cfs_period_us");
  }
  if (!quota || !period || *quota <= 0 || *period <= 0) return std::nullopt;
  return static_cast<double>(*quota) / static_cast<double>(*period);
}

}  // namespace

CpuLimit ReadCpuLimit(const std::string& root) {
  CpuLimit limit;
  cpu_set_t set;
  CPU_ZERO(&set);
  if (sched_getaffinity(0, sizeof(set), &set) == 0) limit.cores = std::max(1, CPU_COUNT(&set));
  limit.reason = "CPU set";
  for (const bool unified : {false, true}) {
    for (const std::string& folder : GroupFolders(root, "cpu", unified)) {
      const auto quota = QuotaOf(folder, unified);
      if (!quota || (limit.quota > 0 && *quota >= limit.quota)) continue;
      limit.quota = *quota;
      const int cores = std::max(1, static_cast<int>(std::floor(*quota)));
      if (cores < limit.cores) {
        limit.cores = cores;
        char number[32];
        std::snprintf(number, sizeof(number), "%.2g", *quota);
        limit.reason = absl::StrCat("quota of ", number, " processors in ", folder);
      }
    }
  }
  return limit;
}

MemoryLimit ReadMemoryLimit(const std::string& root) {
  MemoryLimit limit;
  const std::string meminfo = root + "/proc/meminfo";
  limit.total_bytes = ReadNamed(meminfo, "MemTotal:").value_or(0) * 1024;
  limit.available_bytes = ReadNamed(meminfo, "MemAvailable:").value_or(0) * 1024;
  limit.reason = "machine";
  for (const bool unified : {false, true}) {
    for (const std::string& folder : GroupFolders(root, "memory", unified)) {
      const std::string file = folder + (unified ? "/memory.max" : "/memory.limit_in_bytes");
      const auto most = ReadNumber(file);
      if (!most || *most <= 0 || *most >= kUnlimited) continue;
      const int64_t used =
          ReadNumber(folder + (unified ? "/memory.current" : "/memory.usage_in_bytes")).value_or(0);
      const int64_t cache =
          ReadNamed(folder + "/memory.stat", unified ? "inactive_file" : "total_inactive_file")
              .value_or(0);
      if (*most < limit.total_bytes) {
        limit.total_bytes = *most;
        limit.reason = file;
      }
      const int64_t free = std::max<int64_t>(0, *most - std::max<int64_t>(0, used - cache));
      limit.available_bytes = std::min(limit.available_bytes, free);
    }
  }
  return limit;
}

ProcessLimits ReadProcessLimits() {
  ProcessLimits limits;
  rlimit found{};
  if (getrlimit(RLIMIT_AS, &found) == 0 && found.rlim_cur != RLIM_INFINITY) {
    limits.address_space_bytes = static_cast<int64_t>(found.rlim_cur);
  }
  if (getrlimit(RLIMIT_NOFILE, &found) == 0) {
    limits.open_files = static_cast<int64_t>(found.rlim_cur);
    limits.most_open_files = static_cast<int64_t>(found.rlim_max);
  }
  return limits;
}

absl::Status CheckProcessLimits(const ProcessLimits& limits, int64_t address_space_bytes,
                                int64_t open_files) {
  if (limits.address_space_bytes != 0 && limits.address_space_bytes < address_space_bytes) {
    return absl::ResourceExhaustedError(absl::StrCat(
        "the address space of a process is limited to ", FormatBytes(limits.address_space_bytes),
        ", wanted at least ", FormatBytes(address_space_bytes), "; ulimit -v unlimited"));
  }
  if (limits.open_files < open_files) {
    return absl::ResourceExhaustedError(
        absl::StrCat("a process may have ", limits.open_files, " files open, wanted at least ",
                     open_files, "; ulimit -n 4096 (systemd: LimitNOFILE=4096)"));
  }
  return absl::OkStatus();
}

void RaiseOpenFiles() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);  // without it the soft limit stays, which is checked
}

}  // namespace conclave

// The processors and the memory that this process may use: the smallest of the machine's, its CPU
// set, and the limits of its control group (v1 or v2) and all groups above. Thread counts, cache
// sizes and memory checks come from here, never from the machine alone.
#pragma once

#include <cstdint>
#include <string>

#include "absl/status/status.h"

namespace conclave {

struct CpuLimit {
  int cores = 1;  // to run threads on; a quota of 1.5 cores counts as 1, because a throttled thread
                  // stalls all others
  double quota = 0;    // processors' worth of time per second; 0: no quota
  std::string reason;  // "CPU set", "quota 1.5 of /sys/fs/cgroup/x/cpu.max"
};

struct MemoryLimit {
  int64_t total_bytes = 0;      // what the process and its group could ever use
  int64_t available_bytes = 0;  // of these, what is not in use now; file caches count as free
  std::string reason;           // "machine", or the file that sets the limit
};

// Programs of threads and sockets hang or abort where these are too small, instead of saying so.
struct ProcessLimits {
  int64_t address_space_bytes = 0;  // ulimit -v; 0: unlimited
  int64_t open_files = 0;           // ulimit -n, the soft limit
  int64_t most_open_files = 0;      // what the soft limit may be raised to
};
ProcessLimits ReadProcessLimits();

// What a service needs to start at all: libraries, thread stacks, some sockets. Models come on top.
inline constexpr int64_t kServiceAddressSpace = int64_t{512} << 20;
inline constexpr int64_t kServiceOpenFiles = 64;

// RESOURCE_EXHAUSTED names the limit of this process that is below what is wanted, and how to raise
// it.
absl::Status CheckProcessLimits(const ProcessLimits& limits, int64_t address_space_bytes,
                                int64_t open_files);

// Raises the soft limit of open files as far as it may go; children inherit it.
void RaiseOpenFiles();

// `root` is the folder that holds proc and sys: "" but in tests.
CpuLimit ReadCpuLimit(const std::string& root = "");
MemoryLimit ReadMemoryLimit(const std::string& root = "");

}  // namespace conclave

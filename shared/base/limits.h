// The processors and the memory that this process may use: the smallest of the machine's, its CPU
// set, and the limits of its control group (v1 or v2) and all groups above. Thread counts, cache
// sizes and memory checks come from here, never from the machine alone.
#pragma once

#include <cstdint>
#include <string>

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

// `root` is the folder that holds proc and sys: "" but in tests.
CpuLimit ReadCpuLimit(const std::string& root = "");
MemoryLimit ReadMemoryLimit(const std::string& root = "");

}  // namespace conclave

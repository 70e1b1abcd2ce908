// Splits the processor's cores between processes, as if each half had a machine of its own.
#pragma once

#include <sched.h>

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "services/cli/cluster_state.h"

namespace conclave::cli {

// Ids of processes.
struct CoreHalves {
  std::vector<int64_t> first, second;
};
// Engines and expert workers are the first half, the rest of a cluster is the second.
CoreHalves EnginesApart(std::span<const ProcessState> cluster);

class CoreSplit {
 public:
  // The first ones get the first half of the cores that this process may use, the second ones and
  // this process the other. With one core nothing is split. Threads that are there keep to their
  // half, and so do those they make.
  explicit CoreSplit(const CoreHalves& halves);
  // This process may use all cores again.
  ~CoreSplit();
  CoreSplit(const CoreSplit&) = delete;
  CoreSplit& operator=(const CoreSplit&) = delete;

  // Why the cores could not be split.
  const absl::Status& status() const { return status_; }

 private:
  cpu_set_t before_;
  absl::Status status_;
};

}  // namespace conclave::cli

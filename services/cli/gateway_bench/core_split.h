// Splits the processor's cores between a cluster's engines and everything else, this process
// included, as if the engines had machines of their own.
#pragma once

#include <sched.h>

#include <span>

#include "absl/status/status.h"
#include "services/cli/cluster_state.h"

namespace conclave::cli {

class CoreSplit {
 public:
  // Engines and expert workers get the first half of the cores that this process may use. With one
  // core nothing is split. Threads that are there keep to their half, and so do those they make.
  explicit CoreSplit(std::span<const ProcessState> cluster);
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

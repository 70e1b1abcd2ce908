// `conclave bench machine`: what this machine can do, whatever runs on it: the bounds that kernels
// and clusters are measured by.
#pragma once

#include "services/cli/command.h"

namespace conclave::cli {

struct MachineBenchOptions {
  int threads = 0;     // 0: as many as there are cores
  double seconds = 1;  // of each measurement
  bool json = false;
};

// Measures, prints, and returns the exit code.
int RunMachineBench(const MachineBenchOptions& options);

}  // namespace conclave::cli

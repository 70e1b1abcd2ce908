// `conclave bench machine`: what this machine can do, whatever runs on it: the bounds that kernels
// and clusters are measured by.
#pragma once

#include <string>

#include "services/cli/command.h"

namespace conclave::cli {

struct MachineBenchOptions {
  int threads = 0;                 // 0: as many as there are cores
  double seconds = 1;              // of each measurement
  std::string cpu_level = "auto";  // of the instructions, as kernels::ParseCpuLevel knows them
  bool json = false;
};

// Measures, prints, and returns the exit code.
int RunMachineBench(const MachineBenchOptions& options);

}  // namespace conclave::cli

// `conclave bench kernels`: every kernel at the shapes of a real model, beside the bound that this
// machine sets, measured in the same run.
#pragma once

#include <string>
#include <vector>

#include "services/cli/command.h"

namespace conclave::cli {

struct KernelBenchOptions {
  int threads = 0;                // 0: as many as there are cores
  double seconds = 0.5;           // of each kernel
  std::vector<std::string> only;  // kernels whose name contains one of these; empty: all
  std::string cpu_level = "auto";
  bool json = false;
};

// Measures, prints, and returns the exit code.
int RunKernelBench(const KernelBenchOptions& options);

}  // namespace conclave::cli

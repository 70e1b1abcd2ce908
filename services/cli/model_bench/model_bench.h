// `conclave bench model`: how fast a model is computed here, in one process and through expert
// workers, and how near that is to what memory and cores allow.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "services/cli/command.h"

namespace conclave::cli {

struct ModelBenchOptions {
  std::string model;  // packed file, checkpoint folder, or org/name in the Hugging Face cache
  int workers = 2;    // of the second cluster; 0: it is left out
  int threads = 0;    // of each cluster; 0: as many as there are cores
  // Each may be empty.
  std::vector<int64_t> prefill = {128, 512, 2048};  // tokens of a prompt
  std::vector<int> batches = {1, 4, 8, 32};
  std::vector<int64_t> contexts = {0, 2048, 8192};
  double seconds = 4;  // of each decode
  int rounds = 3;      // the median of which is told
  bool json = false;
};

// Starts the clusters, measures them in turn, prints, and returns the exit code.
int RunModelBench(const Context& context, const ModelBenchOptions& options);

}  // namespace conclave::cli

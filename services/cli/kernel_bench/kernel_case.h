// The kernels of `conclave bench kernels`, at the shapes of DeepSeek-V2-Lite; grouped attention at
// those of Qwen3-30B-A3B.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "kernels/context.h"
#include "kernels/matrix.h"

namespace conclave::cli {

struct KernelCase {
  std::string name;
  double bytes = 0;       // of weights, cache or rows that a call reads
  double operations = 0;  // a multiply-add is two
  // Whose multiply-adds bound it.
  kernels::WeightType type = kernels::WeightType::kF32;
  bool bounded = true;  // false: its rows come from the caches, and it does more than multiply
  std::function<void(kernels::Context&)> run;
};

struct NamedCase {
  std::string name;
  // Makes its data, which takes up to 1 GiB, so that only one case's exists at a time.
  std::function<KernelCase()> make;
};

std::vector<NamedCase> KernelCases();

}  // namespace conclave::cli

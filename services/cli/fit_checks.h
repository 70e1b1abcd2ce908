// Whether a model, the settings and the memory of this machine go together, by the computations of
// the services themselves: what weights take, what KV cache an engine plans, where the controller
// places experts. Pure.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/matrix.h"
#include "services/cli/checks.h"
#include "shared/options/options.h"
#include "shared/weights/model_config.h"

namespace conclave::cli {

// All weights in a numerics class.
struct ClassBytes {
  kernels::NumericsClass numerics = kernels::NumericsClass::kBf16;
  int64_t bytes = 0;   // one copy
  int64_t in_all = 0;  // of all engines and workers together

  std::string text() const;  // "int8 31 GiB"
};

// What `up` puts on this machine.
struct MemoryDemand {
  kernels::NumericsClass numerics = kernels::NumericsClass::kBf16;  // the one that is set
  std::vector<ClassBytes> classes;                                  // the most precise first
  int64_t weight_bytes = 0;  // of all engines and workers together, in the class that is set
  int64_t expert_bytes = 0;  // of these, routed experts
  int64_t kv_block_bytes = 0;
  int64_t context_tokens = 0;  // the setting, or the model's
};
MemoryDemand DemandOf(const weights::ModelConfig& config, const AllOptions& options);

// RESOURCE_EXHAUSTED unless the workers that `up` starts have room for all experts under
// expert.memory. OK when workers of other machines may bring more: the controller listens beyond
// loopback.
absl::Status CheckExpertsFit(const weights::ModelConfig& config, const AllOptions& options);

// The engines' own refusal of engine.context and engine.kv_memory with what is free beside the
// weights; OK where they would start.
absl::Status CheckKvFits(const weights::ModelConfig& config, const AllOptions& options,
                         int64_t available_bytes);

// The memory check of `doctor`, of one full context at least.
Check CheckFits(const MemoryDemand& demand, int64_t available_bytes, int64_t total_bytes);

}  // namespace conclave::cli

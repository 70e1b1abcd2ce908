// What `conclave doctor` looks at: each check is one line, with a remedy when it is not good.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "services/cli/command.h"
#include "shared/base/limits.h"

namespace conclave::weights {
struct ModelConfig;
}

namespace conclave::cli {

enum class Verdict { kOk, kWarn, kFail };

struct Check {
  std::string name;
  Verdict verdict = Verdict::kOk;
  std::string found{};
  std::string remedy{};  // what to do; empty when ok
};

// What was found and what to do, of a message that says both: "FOUND; DO". `otherwise` is the
// remedy of one that does not.
Check FailedCheck(const std::string& name, const absl::Status& status,
                  const std::string& otherwise);

// Processor features from the flags line of /proc/cpuinfo.
Check CheckCpu(const std::string& flags);
// The settings of all processes, as they check them themselves.
Check CheckAllSettings(const Context& context);
// How many threads, and why.
Check CheckCores();
// The ports that `conclave up` would take, but those that the cluster of this state folder holds.
Check CheckPorts(const Context& context);
// What a process of the cluster may open and map, when `up` starts it.
Check CheckLimits(ProcessLimits limits);
// The programs beside this one are of the same version and commit.
Check CheckPrograms();
Check CheckStateDir(const std::string& state_dir);

// Parameters of a model in all, to be shown.
int64_t ParametersOf(const weights::ModelConfig& config);

// The checkpoint opens; its tokenizer, chat template and sampling defaults load; and its weights
// and the KV cache of one full context fit into the memory that this process may use. By the same
// code as engines, workers and gateway.
std::vector<Check> CheckModel(const Context& context);
// Memory without a model.
Check CheckMemory();

}  // namespace conclave::cli

// The flags by which `run`, `chat` and `bench serve` take sampling parameters.
#pragma once

#include <string>

#include "absl/status/status.h"
#include "services/cli/generation.h"

namespace CLI {
class App;
}

namespace conclave::cli {

// Adds --temperature, --top-p, --top-k, --min-p, --seed, --max-tokens, ... to `app`; `parameters`
// outlives it.
void AddParameterFlags(CLI::App& app, Parameters* parameters);

// For `/set NAME VALUE` of chat: temperature 0.7, max_tokens 50, ... "default" as the value takes
// the setting back. INVALID_ARGUMENT names the known ones.
absl::Status SetParameter(const std::string& name, const std::string& value,
                          Parameters* parameters);

// "temperature 0.7, max_tokens 50"; "all defaults".
std::string DescribeParameters(const Parameters& parameters);

}  // namespace conclave::cli

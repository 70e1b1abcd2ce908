// What `conclave eval` found, for people.
#pragma once

#include <string>

#include "nlohmann/json.hpp"

namespace conclave::cli {

// `told`: what `conclave eval --json` prints (docs/operations.md, "Evaluating a format").
std::string EvaluationTable(const nlohmann::json& told);

}  // namespace conclave::cli

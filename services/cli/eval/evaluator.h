// `conclave-engine evaluate` as a function: the computation belongs to the engine, whose program
// lies beside this one.
#pragma once

#include "absl/status/statusor.h"
#include "nlohmann/json.hpp"
#include "shared/base/signals.h"

namespace conclave::cli {

// Starts the program with `request` (services/engine/evaluation/evaluation.h), waits for it and
// returns its answer. Its progress goes to standard error. CANCELLED when a signal came, which ends
// the program; UNAVAILABLE when it could not be started or ended without an answer; else the errors
// it gives.
absl::StatusOr<nlohmann::json> RunEvaluation(const nlohmann::json& request, StopSignals& signals);

}  // namespace conclave::cli

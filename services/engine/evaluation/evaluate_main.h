// `conclave-engine evaluate`: the program that `conclave eval` starts.
#pragma once

namespace conclave::engine {

// The word that makes the program this one.
inline constexpr char kEvaluateWord[] = "evaluate";

// Reads an EvaluationRequest as one JSON object from standard input and writes what came of it to
// standard output: Evaluate's object, or {"error": {"code": absl's number, "message"}}. Progress
// goes to standard error, from the first half second on. Returns the exit code, 0 or 1. Ended by
// signals as any program.
int EvaluateMain();

}  // namespace conclave::engine

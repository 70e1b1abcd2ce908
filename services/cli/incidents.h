// What died while a request ran, as `run` and `chat` tell it: only what the supervisor or the
// controller has seen, and only in the time in question.
#pragma once

#include <string>
#include <vector>

#include "services/cli/cluster_state.h"
#include "services/cli/command.h"
#include "services/cli/generation.h"

namespace conclave::cli {

// The deaths among the events from one time to another, the first of each member, without what came
// of them: "expert-0 (4104) ended by SIGKILL". Pure.
std::vector<std::string> DeathsBetween(const std::vector<Event>& events, int64_t from_unix_ms,
                                       int64_t to_unix_ms);

// "token 58: expert-0 (4104) ended by SIGKILL, longest gap 712 ms (usual 50 ms)" when something
// died in the longest gap between two tokens and the gap is much longer than they usually are; else
// empty. Pure.
std::string DescribePause(const GenerationResult& result, const std::vector<Event>& events);

// DescribePause with the events of the local cluster; empty if `gateway` is not its gateway. Asks
// for events only after a long gap.
std::string PauseLine(const Context& context, const std::string& gateway,
                      const GenerationResult& result);

// For a request that `gateway` failed with UNAVAILABLE: what has died in the local cluster since it
// began, or that its gateway does not run now. Empty if that is not its gateway or nothing is
// known.
std::string FailureLine(const Context& context, const std::string& gateway, int64_t began_unix_ms);

}  // namespace conclave::cli

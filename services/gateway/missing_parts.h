// What the gateway lacks to be ready: an engine that steps and that reaches a live worker for every
// expert. The engines say themselves what they reach: a controller may be away, or not know all
// members yet, while requests are served.
//
// Pure; called by the core thread.
#pragma once

#include <string>
#include <vector>

#include "services/gateway/engine_set.h"
#include "shared/base/clock.h"

namespace conclave::gateway {

// One line a thing that is missing; empty: ready. An engine counts while it has stepped within
// `step_age_limit`, or while its stream lives and no fresh report of the controller says otherwise.
std::vector<std::string> WhatIsMissing(EngineSet& engines, TimePoint now, Duration step_age_limit);

}  // namespace conclave::gateway

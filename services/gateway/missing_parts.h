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

// One line a thing that is missing; empty: ready. An engine that is silent does not step.
std::vector<std::string> WhatIsMissing(EngineSet& engines, TimePoint now);

}  // namespace conclave::gateway

// Why a request may not wait for an engine.
//
// Pure functions; any thread.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "shared/base/clock.h"

namespace conclave::gateway {

// RESOURCE_EXHAUSTED, with when to come again. `wait`: until the first token, `answer`: from there
// to the end.
absl::Status DeadlineOutOfReach(Duration wait, Duration answer);
// `wait`: until a first token; nullopt: not known.
absl::Status QueueFull(int32_t num_running, int32_t max_waiting, std::optional<Duration> wait);

}  // namespace conclave::gateway

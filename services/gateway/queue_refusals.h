// Why a request may not begin, or not wait for an engine.
//
// Pure functions; any thread.
#pragma once

#include <cstdint>
#include <optional>

#include "absl/status/status.h"
#include "services/gateway/generation.h"
#include "services/gateway/qos/wait_estimate.h"
#include "shared/base/clock.h"

namespace conclave::gateway {

// RESOURCE_EXHAUSTED, with when to come again. `wait`: until the first token, `answer`: from there
// to the end.
absl::Status DeadlineOutOfReach(Duration wait, Duration answer);
// OK, or why the request's deadline is out of reach though it need not wait: an answer like it
// usually takes longer.
absl::Status CheckDeadline(const Generation& generation, const WaitEstimate& estimate,
                           TimePoint now);
// `wait`: until a first token; nullopt: not known.
absl::Status QueueFull(int32_t num_running, int32_t max_waiting, std::optional<Duration> wait);

}  // namespace conclave::gateway

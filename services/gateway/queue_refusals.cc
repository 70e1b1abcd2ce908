#include "services/gateway/queue_refusals.h"

#include <algorithm>
#include <chrono>

#include "absl/strings/str_cat.h"
#include "shared/rpc/status.h"

namespace conclave::gateway {

namespace {

int64_t Milliseconds(Duration duration) {
  return std::chrono::duration_cast<std::chrono::milliseconds>(duration).count();
}

// When to come again, to a client that is refused because others wait.
int64_t RetryAfterMs(std::optional<Duration> wait) {
  return std::max<int64_t>(1000, wait ? Milliseconds(*wait) : 0);
}

}  // namespace

absl::Status DeadlineOutOfReach(Duration wait, Duration answer) {
  return rpc::WithDetails(
      absl::ResourceExhaustedError(
          absl::StrCat("the deadline cannot be met: requests wait, and a first token would take "
                       "about ",
                       Milliseconds(wait), " ms, the rest of the answer ", Milliseconds(answer),
                       " ms; give it more time, or try again later")),
      {.reason = "DEADLINE_OUT_OF_REACH",
       .metadata = {},
       .retry_after_ms = RetryAfterMs(wait),
       .fields = {}});
}

absl::Status QueueFull(int32_t num_running, int32_t max_waiting, std::optional<Duration> wait) {
  return rpc::WithDetails(
      absl::ResourceExhaustedError(absl::StrCat(
          num_running, " requests run and ", max_waiting,
          " wait (settings gateway.max_running and gateway.max_waiting); try again later")),
      {.reason = "TOO_MANY_REQUESTS",
       .metadata = {},
       .retry_after_ms = RetryAfterMs(wait),
       .fields = {}});
}

}  // namespace conclave::gateway

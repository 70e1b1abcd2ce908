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
  return rpc::WithDetails(absl::ResourceExhaustedError(absl::StrCat(
                              "the deadline cannot be met: a first token would take about ",
                              Milliseconds(wait), " ms, the rest of the answer ",
                              Milliseconds(answer), " ms; give it more time, or try again later")),
                          {.reason = "DEADLINE_OUT_OF_REACH",
                           .metadata = {},
                           .retry_after_ms = RetryAfterMs(wait),
                           .fields = {}});
}

absl::Status CheckDeadline(const Generation& generation, const WaitEstimate& estimate,
                           TimePoint now) {
  if (!generation.deadline) return absl::OkStatus();
  if (now >= *generation.deadline) {
    return absl::DeadlineExceededError("the request's time was over before it was begun");
  }
  const WaitEstimate::Answer answer =
      estimate.UsualAnswer(static_cast<double>(generation.max_tokens));
  if (now + answer.until_first + answer.after_first <= *generation.deadline) {
    return absl::OkStatus();
  }
  return DeadlineOutOfReach(answer.until_first, answer.after_first);
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

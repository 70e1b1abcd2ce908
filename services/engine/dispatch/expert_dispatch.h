// How the forward pass reaches the routed experts: one interface, several transports (in-process,
// gRPC; later shared memory and NCCL), several replicas an expert.
//
// Used by the engine's step thread alone. Implementations may own threads of their own.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "kernels/elementwise.h"
#include "shared/base/qos_class.h"

namespace conclave::engine {

// Of one token row: what travels with it in the frame's header.
struct RowOrigin {
  QosClass qos = QosClass::kInteractive;
  float tenant_weight = 1;
  int64_t remaining_ms = 0;  // until the request's deadline; 0: none
};

// The rows of one MoE layer in one step. All memory is the caller's and stays valid until Finish
// returns.
struct ExpertCall {
  int32_t layer = 0;
  int64_t num_tokens = 0;
  int64_t hidden = 0;
  int32_t top_k = 0;
  kernels::RowType row_type = kernels::RowType::kBf16;
  const std::byte* rows = nullptr;      // [num_tokens, hidden] of row_type
  std::span<const int32_t> expert_ids;  // [num_tokens * top_k], in gate order
  std::byte* results = nullptr;  // [num_tokens * top_k, hidden] of row_type, written by Finish
  std::span<const RowOrigin> origins;  // [num_tokens]
  std::string_view traceparent;        // of the step, or empty
};

// A token whose row could not be served: it leaves the batch at this layer, the others go on.
struct FailedToken {
  int64_t token = 0;
  absl::Status status;  // UNAVAILABLE: "layer 3 expert 7 has no live worker (expert-0 restarts)",
                        // retried by the scheduler; DEADLINE_EXCEEDED: the request's time is up
};

struct ExpertOutcome {
  std::vector<FailedToken> failed;  // at most one entry a token
  int64_t expert_us = 0;            // compute time reported by the workers, in all
};

class ExpertDispatch {
 public:
  virtual ~ExpertDispatch() = default;

  // Sends the rows and returns at once. One call at a time; Finish follows.
  virtual void Begin(const ExpertCall& call) = 0;

  // Blocks until every row of the call is answered or failed. Never waits for a worker that is
  // known to be gone: that row fails at once and the scheduler tries again (for at most 2 s in
  // all).
  virtual ExpertOutcome Finish() = 0;

  // Experts that have no live worker now, as (layer, expert); empty when all can be served.
  virtual std::vector<std::pair<int32_t, int32_t>> Missing() const = 0;
};

}  // namespace conclave::engine

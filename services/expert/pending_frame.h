// A request frame inside the worker, from its arrival to its last answer, and where its answers go.
//
// Made on a gRPC thread, or on the compute thread, which owns it from then on.
#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>
#include <memory>
#include <vector>

#include "shared/base/clock.h"
#include "shared/rpc/frame_buffer.h"
#include "shared/rpc/row_frame.h"

namespace conclave::expert {

// One engine's stream, as the compute thread sees it. Thread-safe; nothing blocks; after the
// stream's end all is dropped.
class AnswerSink {
 public:
  virtual ~AnswerSink() = default;
  // Takes a whole frame for sending.
  virtual void Send(rpc::OutgoingFrame frame) = 0;
  // A request of so many bytes is in the worker, until RequestDone.
  virtual void RequestTaken(size_t request_bytes) = 0;
  // Its memory is free again.
  virtual void RequestDone(size_t request_bytes) = 0;
};

inline constexpr TimePoint kNoDeadline = TimePoint::max();

struct PendingFrame {
  // Fixed at arrival.
  uint64_t stream = 0;  // unique in the process; call ids are unique on a stream
  rpc::RequestHeader header = {};
  std::vector<rpc::RowReference> references = {};
  std::vector<const std::byte*> rows =
      {};  // [header.num_rows] -> [hidden] of header.row_type, aligned to it
  std::shared_ptr<const void> keeper = {};  // owns what `rows` points to
  size_t message_bytes = 0;
  std::shared_ptr<AnswerSink> sink = {};
  TimePoint arrival = {};
  TimePoint deadline = kNoDeadline;  // after which nobody waits for it
  TimePoint due = kNoDeadline;       // by which it is ordered; not after the deadline

  // References by expert, ascending: by_expert[group.next, group.end) are not yet planned.
  struct ExpertGroup {
    uint32_t expert = 0;
    uint32_t next = 0;
    uint32_t end = 0;
  };
  std::vector<uint32_t> by_expert = {};  // [references.size()]: indices into references
  std::vector<ExpertGroup> groups = {};
  size_t first_open_group = 0;  // groups before it are planned
  uint64_t sequence = 0;        // order of arrival

  // Answers collected for the next part, and what has been answered so far.
  std::vector<rpc::Answer> answers = {};
  rpc::OutgoingFrame answer_rows = {};
  size_t answer_bytes = 0;  // of answer_rows
  size_t num_answered = 0;
  uint64_t compute_ns = 0;  // since the last part
  uint64_t queue_ns = 0;
  bool started = false;

  bool answered() const { return num_answered == references.size(); }
};

}  // namespace conclave::expert

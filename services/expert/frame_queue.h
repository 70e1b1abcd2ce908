// The worker's queue: frames in the order of their urgency, cut into units of work of about a
// millisecond.
//
// Owned by the compute thread; pure: knows neither gRPC nor weights.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <set>
#include <vector>

#include "services/expert/pending_frame.h"
#include "services/expert/unit_rate.h"
#include "shared/base/clock.h"

namespace conclave::expert {

// One reference of one frame.
struct UnitRow {
  PendingFrame* frame = nullptr;
  uint32_t reference = 0;
};

// Rows of a few experts of one layer, from any number of frames.
struct Unit {
  int32_t layer = 0;
  std::vector<int32_t> experts;  // each once
  std::vector<int32_t>
      first_row;  // [experts.size() + 1]: expert e owns rows [first_row[e], first_row[e + 1])
  std::vector<UnitRow> rows;
};

class FrameQueue {
 public:
  FrameQueue() = default;
  ~FrameQueue();
  FrameQueue(const FrameQueue&) = delete;
  FrameQueue& operator=(const FrameQueue&) = delete;

  // Puts a frame in: after all frames of a more urgent class, in a class by when it is due, then
  // by arrival.
  void Add(std::unique_ptr<PendingFrame> frame);

  bool empty() const { return order_.empty(); }
  size_t size() const { return order_.size(); }
  size_t message_bytes() const { return message_bytes_; }

  // Plans the next unit: rows of the most urgent frame's next expert, joined by all other frames'
  // rows of the same layer and expert; then of its further experts as long as the predicted time
  // stays within `budget_ns`. The rows of one expert are at least kLeastRows if so many wait: they
  // cost little more than reading its weights. Precondition: Plannable().
  Unit TakeUnit(const UnitRate& rate, double budget_ns);
  bool Plannable() const { return FirstOpen() != nullptr; }

  // Takes frames out: one whose references are all answered; one by call; all of a stream; all
  // whose deadline has passed.
  std::unique_ptr<PendingFrame> Remove(PendingFrame* frame);
  std::unique_ptr<PendingFrame> RemoveCall(uint64_t stream, uint64_t call_id);
  std::vector<std::unique_ptr<PendingFrame>> RemoveStream(uint64_t stream);
  std::vector<std::unique_ptr<PendingFrame>> RemoveExpired(TimePoint now);

  static constexpr int64_t kLeastRows = 16;

 private:
  struct MoreUrgent {
    bool operator()(const PendingFrame* a, const PendingFrame* b) const;
  };
  PendingFrame* FirstOpen() const;
  // Moves up to `most` unplanned rows of (layer, expert) from all frames into the unit; returns how
  // many.
  int64_t TakeRows(uint32_t layer, uint32_t expert, int64_t most, Unit* unit);

  std::set<PendingFrame*, MoreUrgent> order_;  // owns the frames
  uint64_t next_sequence_ = 0;
  size_t message_bytes_ = 0;
};

}  // namespace conclave::expert

#include "services/expert/frame_queue.h"

#include <algorithm>
#include <numeric>
#include <tuple>

#include "shared/base/check.h"

namespace conclave::expert {

bool FrameQueue::MoreUrgent::operator()(const PendingFrame* a, const PendingFrame* b) const {
  return std::tie(a->header.qos, a->due, a->sequence) <
         std::tie(b->header.qos, b->due, b->sequence);
}

FrameQueue::~FrameQueue() {
  for (PendingFrame* frame : order_) delete frame;
}

void FrameQueue::Add(std::unique_ptr<PendingFrame> frame) {
  frame->sequence = next_sequence_++;
  frame->by_expert.resize(frame->references.size());
  std::iota(frame->by_expert.begin(), frame->by_expert.end(), 0u);
  std::stable_sort(frame->by_expert.begin(), frame->by_expert.end(), [&](uint32_t a, uint32_t b) {
    return frame->references[a].expert < frame->references[b].expert;
  });
  for (uint32_t i = 0; i < frame->by_expert.size(); ++i) {
    const uint32_t expert = frame->references[frame->by_expert[i]].expert;
    if (frame->groups.empty() || frame->groups.back().expert != expert) {
      frame->groups.push_back({expert, i, i});
    }
    frame->groups.back().end = i + 1;
  }
  message_bytes_ += frame->message_bytes;
  order_.insert(frame.release());
}

PendingFrame* FrameQueue::FirstOpen() const {
  for (PendingFrame* frame : order_) {
    if (frame->first_open_group < frame->groups.size()) return frame;
  }
  return nullptr;
}

int64_t FrameQueue::TakeRows(uint32_t layer, uint32_t expert, int64_t most, Unit* unit) {
  int64_t taken = 0;
  for (PendingFrame* frame : order_) {
    if (taken == most) break;
    if (frame->header.layer != layer) continue;
    const auto group = std::lower_bound(
        frame->groups.begin(), frame->groups.end(), expert,
        [](const PendingFrame::ExpertGroup& g, uint32_t e) { return g.expert < e; });
    if (group == frame->groups.end() || group->expert != expert) continue;
    for (; group->next < group->end && taken < most; ++taken) {
      unit->rows.push_back({frame, frame->by_expert[group->next++]});
    }
    while (frame->first_open_group < frame->groups.size() &&
           frame->groups[frame->first_open_group].next ==
               frame->groups[frame->first_open_group].end) {
      ++frame->first_open_group;
    }
  }
  return taken;
}

Unit FrameQueue::TakeUnit(const UnitRate& rate, double budget_ns) {
  PendingFrame* const head = FirstOpen();
  CONCLAVE_CHECK(head != nullptr);
  Unit unit;
  unit.layer = static_cast<int32_t>(head->header.layer);
  unit.first_row.push_back(0);
  double left_ns = budget_ns;
  while (head->first_open_group < head->groups.size()) {
    const int64_t fit = rate.RowsWithin(left_ns);
    if (!unit.experts.empty() && fit == 0) break;
    const uint32_t expert = head->groups[head->first_open_group].expert;
    const int64_t taken = TakeRows(head->header.layer, expert, std::max(fit, kLeastRows), &unit);
    unit.experts.push_back(static_cast<int32_t>(expert));
    unit.first_row.push_back(static_cast<int32_t>(unit.rows.size()));
    left_ns -= rate.PredictNs(1, taken);
    // An expert of which rows remain comes again in the next unit, not twice in this one.
    if (head->first_open_group < head->groups.size() &&
        head->groups[head->first_open_group].expert == expert)
      break;
  }
  return unit;
}

std::unique_ptr<PendingFrame> FrameQueue::Remove(PendingFrame* frame) {
  order_.erase(frame);
  message_bytes_ -= frame->message_bytes;
  return std::unique_ptr<PendingFrame>(frame);
}

std::unique_ptr<PendingFrame> FrameQueue::RemoveCall(uint64_t stream, uint64_t call_id) {
  for (PendingFrame* frame : order_) {
    if (frame->stream == stream && frame->header.call_id == call_id) return Remove(frame);
  }
  return nullptr;
}

std::vector<std::unique_ptr<PendingFrame>> FrameQueue::RemoveStream(uint64_t stream) {
  std::vector<std::unique_ptr<PendingFrame>> removed;
  const std::vector<PendingFrame*> all(order_.begin(), order_.end());
  for (PendingFrame* frame : all) {
    if (frame->stream == stream) removed.push_back(Remove(frame));
  }
  return removed;
}

std::vector<std::unique_ptr<PendingFrame>> FrameQueue::RemoveExpired(TimePoint now) {
  std::vector<std::unique_ptr<PendingFrame>> removed;
  const std::vector<PendingFrame*> all(order_.begin(), order_.end());
  for (PendingFrame* frame : all) {
    if (frame->deadline <= now) removed.push_back(Remove(frame));
  }
  return removed;
}

}  // namespace conclave::expert

// The rows of one step, and which of them are still in it: a sequence leaves at the layer where one
// of its rows cannot be served, and the rows of the others close up without a change of their bits.
//
// Owned by the forward pass, used on the step thread.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "kernels/attention.h"
#include "services/engine/dispatch/expert_dispatch.h"
#include "services/engine/layers/row_buffer.h"

namespace conclave::engine {

struct ForwardSequence;

class StepRows {
 public:
  // Lays out the new tokens of all sequences, one row each, in order. Borrows what they borrow,
  // until the next Reset.
  void Reset(std::span<const ForwardSequence> sequences);

  int64_t num_rows() const { return static_cast<int64_t>(positions_.size()); }
  std::span<const kernels::SequenceRows> sequences() const {
    return rows_;
  }                                                                  // those still in the step
  std::span<const int32_t> positions() const { return positions_; }  // [num_rows]
  std::span<const RowOrigin> origins() const { return origins_; }    // [num_rows]

  // The sequence of `row` leaves with `status`; its first reason counts. Rows keep their places
  // until Compact.
  void Leave(int64_t row, const absl::Status& status);

  // Closes up after Leave: drops the rows of the sequences that left, of every list here and of the
  // residual stream [num_rows, hidden].
  void Compact(int64_t hidden, RowBuffer<float>& residual);

  // Closes up to the rows whose logits are wanted (the last num_logits of each sequence). Attention
  // is no longer possible afterwards.
  void KeepLogitRows(int64_t hidden, RowBuffer<float>& residual);

  // By index of the sequence in Reset.
  const absl::Status& status(int64_t sequence) const { return members_[sequence].status; }
  int64_t num_members() const { return static_cast<int64_t>(members_.size()); }
  int64_t num_logits(int64_t sequence) const { return members_[sequence].num_logits; }
  // The rows of the last num_logits tokens start here; only for a sequence that is still in the
  // step.
  int64_t FirstLogitRow(int64_t sequence) const;

 private:
  struct Member {
    absl::Status status;
    int64_t num_logits = 0;
    int64_t first_row = 0;
    int64_t num_rows = 0;  // 0 once it has left
  };

  // Keeps the last keep(member) rows of every member.
  template <typename Keep>
  void Close(int64_t hidden, RowBuffer<float>& residual, Keep keep);

  std::vector<Member> members_;
  std::vector<kernels::SequenceRows> rows_;
  std::vector<int64_t> member_of_;  // [rows_.size()]
  std::vector<int32_t> positions_;
  std::vector<RowOrigin> origins_;
};

}  // namespace conclave::engine

#include "services/engine/layers/step_rows.h"

#include <algorithm>

#include "services/engine/forward.h"
#include "shared/base/check.h"

namespace conclave::engine {

void StepRows::Reset(std::span<const ForwardSequence> sequences) {
  members_.clear();
  rows_.clear();
  member_of_.clear();
  positions_.clear();
  origins_.clear();
  for (const ForwardSequence& sequence : sequences) {
    const int64_t first_row = num_rows();
    const int64_t num_rows = static_cast<int64_t>(sequence.ids.size());
    CONCLAVE_CHECK(sequence.num_logits >= 0 && sequence.num_logits <= num_rows);
    CONCLAVE_CHECK(static_cast<int64_t>(sequence.blocks.size()) * kernels::kBlockTokens >=
                   sequence.first_position + num_rows);
    member_of_.push_back(num_members());
    members_.push_back({.status = absl::OkStatus(),
                        .num_logits = sequence.num_logits,
                        .first_row = first_row,
                        .num_rows = num_rows});
    rows_.push_back({.first_row = first_row,
                     .num_rows = num_rows,
                     .first_position = sequence.first_position,
                     .blocks = sequence.blocks});
    for (int64_t i = 0; i < num_rows; ++i) {
      positions_.push_back(static_cast<int32_t>(sequence.first_position + i));
      origins_.push_back(sequence.origin);
    }
  }
}

void StepRows::Leave(int64_t row, const absl::Status& status) {
  const auto after = std::upper_bound(rows_.begin(), rows_.end(), row,
                                      [](int64_t r, const kernels::SequenceRows& rows) {
                                        return r < rows.first_row + rows.num_rows;
                                      });
  CONCLAVE_CHECK(after != rows_.end());
  Member& member = members_[member_of_[after - rows_.begin()]];
  if (member.status.ok()) member.status = status;
}

template <typename Keep>
void StepRows::Close(int64_t hidden, RowBuffer<float>& residual, Keep keep) {
  float* x = residual.data();
  int64_t next_row = 0;
  size_t next_sequence = 0;
  for (size_t s = 0; s < rows_.size(); ++s) {
    Member& member = members_[member_of_[s]];
    const int64_t kept = keep(member);
    const int64_t skipped = member.num_rows - kept;
    const int64_t from = member.first_row + skipped;
    if (from != next_row) {  // rows only ever move down
      std::copy(x + from * hidden, x + (from + kept) * hidden, x + next_row * hidden);
      std::copy(positions_.begin() + from, positions_.begin() + from + kept,
                positions_.begin() + next_row);
      std::copy(origins_.begin() + from, origins_.begin() + from + kept,
                origins_.begin() + next_row);
    }
    member.first_row = next_row;
    member.num_rows = kept;
    next_row += kept;
    if (kept == 0) continue;
    kernels::SequenceRows rows = rows_[s];
    rows.first_row = member.first_row;
    rows.num_rows = kept;
    rows.first_position += skipped;
    rows_[next_sequence] = rows;
    member_of_[next_sequence] = member_of_[s];
    ++next_sequence;
  }
  rows_.resize(next_sequence);
  member_of_.resize(next_sequence);
  positions_.resize(static_cast<size_t>(next_row));
  origins_.resize(static_cast<size_t>(next_row));
}

void StepRows::Compact(int64_t hidden, RowBuffer<float>& residual) {
  Close(hidden, residual,
        [](const Member& member) { return member.status.ok() ? member.num_rows : 0; });
}

void StepRows::KeepLogitRows(int64_t hidden, RowBuffer<float>& residual) {
  Close(hidden, residual,
        [](const Member& member) { return std::min(member.num_logits, member.num_rows); });
}

int64_t StepRows::FirstLogitRow(int64_t sequence) const {
  const Member& member = members_[sequence];
  return member.first_row + member.num_rows - member.num_logits;
}

}  // namespace conclave::engine

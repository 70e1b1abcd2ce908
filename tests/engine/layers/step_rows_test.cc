#include "services/engine/layers/step_rows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

#include "services/engine/forward.h"

namespace conclave::engine {
namespace {

using ::testing::ElementsAre;

constexpr int64_t kHidden = 2;

class StepRowsTest : public ::testing::Test {
 protected:
  // Three sequences of 2, 3 and 1 tokens at positions 10, 0 and 40; the residual stream's row r is
  // {10 r, 10 r + 1}.
  void SetUp() override {
    sequences_ = {{.ids = ids_,
                   .first_position = 10,
                   .blocks = blocks_,
                   .num_logits = 1,
                   .origin = {},
                   .traceparent = {}},
                  {.ids = ids3_,
                   .first_position = 0,
                   .blocks = blocks_,
                   .num_logits = 0,
                   .origin = {},
                   .traceparent = {}},
                  {.ids = ids1_,
                   .first_position = 40,
                   .blocks = blocks_,
                   .num_logits = 1,
                   .origin = {},
                   .traceparent = {}}};
    for (size_t s = 0; s < sequences_.size(); ++s)
      sequences_[s].origin.remaining_ms = static_cast<int64_t>(s);
    rows_.Reset(sequences_);
    const auto x = residual_.Shape(6, kHidden);
    for (int64_t row = 0; row < 6; ++row) {
      x.Row(row)[0] = static_cast<float>(10 * row);
      x.Row(row)[1] = static_cast<float>(10 * row + 1);
    }
  }

  std::vector<float> FirstColumn() {
    std::vector<float> column;
    for (int64_t row = 0; row < rows_.num_rows(); ++row)
      column.push_back(residual_.data()[row * kHidden]);
    return column;
  }
  std::vector<int64_t> Origins() const {
    std::vector<int64_t> origins;
    for (const RowOrigin& origin : rows_.origins()) origins.push_back(origin.remaining_ms);
    return origins;
  }

  const std::vector<int32_t> ids_ = {1, 2}, ids3_ = {3, 4, 5}, ids1_ = {6}, blocks_ = {4, 7};
  std::vector<ForwardSequence> sequences_;
  RowBuffer<float> residual_;
  StepRows rows_;
};

TEST_F(StepRowsTest, LaysOutRowsInOrder) {
  EXPECT_THAT(rows_.positions(), ElementsAre(10, 11, 0, 1, 2, 40));
  EXPECT_THAT(Origins(), ElementsAre(0, 0, 1, 1, 1, 2));
  ASSERT_EQ(rows_.sequences().size(), 3u);
  EXPECT_EQ(rows_.sequences()[1].first_row, 2);
  EXPECT_EQ(rows_.sequences()[1].num_rows, 3);
  EXPECT_EQ(rows_.FirstLogitRow(0), 1);
  EXPECT_EQ(rows_.FirstLogitRow(2), 5);
}

TEST_F(StepRowsTest, CompactWithoutLossChangesNothing) {
  rows_.Compact(kHidden, residual_);
  EXPECT_THAT(rows_.positions(), ElementsAre(10, 11, 0, 1, 2, 40));
  EXPECT_THAT(FirstColumn(), ElementsAre(0, 10, 20, 30, 40, 50));
}

TEST_F(StepRowsTest, SequenceInTheMiddleLeavesAndTheRestClosesUp) {
  rows_.Leave(3, absl::UnavailableError("first"));
  rows_.Leave(2, absl::UnavailableError("second"));
  EXPECT_EQ(rows_.num_rows(), 6);
  rows_.Compact(kHidden, residual_);
  EXPECT_THAT(rows_.positions(), ElementsAre(10, 11, 40));
  EXPECT_THAT(Origins(), ElementsAre(0, 0, 2));
  EXPECT_THAT(FirstColumn(), ElementsAre(0, 10, 50));
  ASSERT_EQ(rows_.sequences().size(), 2u);
  EXPECT_EQ(rows_.sequences()[1].first_row, 2);
  EXPECT_EQ(rows_.sequences()[1].first_position, 40);
  EXPECT_EQ(rows_.status(1).message(), "first");
  EXPECT_TRUE(rows_.status(0).ok());
  EXPECT_EQ(rows_.FirstLogitRow(2), 2);
}

TEST_F(StepRowsTest, LeavesAgainAfterCompacting) {
  rows_.Leave(0, absl::UnavailableError("gone"));
  rows_.Compact(kHidden, residual_);
  rows_.Leave(3, absl::UnavailableError("gone too"));  // the third sequence's row is the fourth now
  rows_.Compact(kHidden, residual_);
  EXPECT_THAT(rows_.positions(), ElementsAre(0, 1, 2));
  EXPECT_THAT(FirstColumn(), ElementsAre(20, 30, 40));
  EXPECT_EQ(rows_.status(2).message(), "gone too");
}

TEST_F(StepRowsTest, KeepsTheRowsWithLogits) {
  rows_.KeepLogitRows(kHidden, residual_);
  EXPECT_THAT(rows_.positions(), ElementsAre(11, 40));
  EXPECT_THAT(FirstColumn(), ElementsAre(10, 50));
  EXPECT_TRUE(rows_.status(1).ok());
  EXPECT_EQ(rows_.FirstLogitRow(0), 0);
  EXPECT_EQ(rows_.FirstLogitRow(2), 1);
  rows_.Leave(1, absl::UnavailableError("late"));
  rows_.Compact(kHidden, residual_);
  EXPECT_THAT(FirstColumn(), ElementsAre(10));
  EXPECT_EQ(rows_.status(2).message(), "late");
}

TEST_F(StepRowsTest, EverySequenceMayLeave) {
  for (const int64_t row : {0, 2, 5}) rows_.Leave(row, absl::UnavailableError("gone"));
  rows_.Compact(kHidden, residual_);
  EXPECT_EQ(rows_.num_rows(), 0);
  EXPECT_TRUE(rows_.sequences().empty());
}

}  // namespace
}  // namespace conclave::engine

#include "services/expert/frame_queue.h"

#include <algorithm>
#include <chrono>
#include <random>
#include <set>
#include <utility>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/expert/answer_parts.h"
#include "tests/expert/collecting_sink.h"

namespace conclave::expert {
namespace {

using ::testing::ElementsAre;

constexpr double kAnyBudget = 1e15;

struct FrameSpec {
  uint64_t call_id = 1;
  uint64_t stream = 1;
  uint8_t qos = 2;
  uint32_t layer = 1;
  std::vector<uint32_t> experts = {0};  // one reference each, of row 0
  TimePoint deadline = kNoDeadline;
  TimePoint due = kNoDeadline;  // the deadline, where that comes first
};

std::unique_ptr<PendingFrame> MakeFrame(const FrameSpec& spec) {
  auto frame = std::make_unique<PendingFrame>();
  frame->stream = spec.stream;
  frame->header.call_id = spec.call_id;
  frame->header.qos = spec.qos;
  frame->header.layer = spec.layer;
  frame->header.hidden = 4;
  frame->header.num_rows = 1;
  frame->deadline = spec.deadline;
  frame->due = std::min(spec.due, spec.deadline);
  frame->message_bytes = 100;
  for (const uint32_t expert : spec.experts) frame->references.push_back({0, expert});
  return frame;
}

// The calls of a unit's rows, in order.
std::vector<uint64_t> CallsOf(const Unit& unit) {
  std::vector<uint64_t> calls;
  for (const UnitRow& row : unit.rows) calls.push_back(row.frame->header.call_id);
  return calls;
}

// A rate by which an expert's weights take `expert_ns` and a row takes `row_ns`.
UnitRate RateOf(double expert_ns, double row_ns) {
  UnitRate rate;
  rate.Observe(1, 1, expert_ns + row_ns);
  rate.Observe(1, 100, expert_ns + 100 * row_ns);
  return rate;
}

// A frame with a row that is due soon, for rows that have time.
TEST(FrameQueueTest, AFrameIsOrderedByWhatIsDueAndLivesUntilItsDeadline) {
  const TimePoint t0{};
  const TimePoint late = t0 + std::chrono::seconds(10);
  FrameQueue queue;
  queue.Add(MakeFrame({.call_id = 1, .layer = 1, .deadline = t0 + std::chrono::seconds(2)}));
  queue.Add(MakeFrame(
      {.call_id = 2, .layer = 2, .deadline = late, .due = t0 + std::chrono::milliseconds(50)}));
  EXPECT_TRUE(queue.RemoveExpired(t0 + std::chrono::seconds(1)).empty());
  EXPECT_THAT(CallsOf(queue.TakeUnit(UnitRate(), 1)), ElementsAre(2));
  EXPECT_THAT(CallsOf(queue.TakeUnit(UnitRate(), 1)), ElementsAre(1));
  EXPECT_EQ(queue.RemoveExpired(late).size(), 2u);
}

TEST(FrameQueueTest, UrgentFramesComeFirstThenDeadlinesThenArrival) {
  const TimePoint t0{};
  FrameQueue queue;
  queue.Add(MakeFrame({.call_id = 1, .qos = 3, .layer = 1}));
  queue.Add(MakeFrame({.call_id = 2, .qos = 2, .layer = 2}));
  queue.Add(
      MakeFrame({.call_id = 3, .qos = 2, .layer = 3, .deadline = t0 + std::chrono::seconds(2)}));
  queue.Add(
      MakeFrame({.call_id = 4, .qos = 2, .layer = 4, .deadline = t0 + std::chrono::seconds(1)}));
  queue.Add(MakeFrame({.call_id = 5, .qos = 2, .layer = 5}));
  queue.Add(MakeFrame({.call_id = 6, .qos = 1, .layer = 6}));
  std::vector<uint64_t> order;
  while (queue.Plannable()) {
    for (const uint64_t call : CallsOf(queue.TakeUnit(UnitRate(), 1))) order.push_back(call);
  }
  EXPECT_THAT(order, ElementsAre(6, 4, 3, 2, 5, 1));
}

TEST(FrameQueueTest, RowsOfOneExpertAreJoinedAcrossFrames) {
  FrameQueue queue;
  queue.Add(MakeFrame({.call_id = 1, .stream = 1, .experts = {7, 9}}));
  queue.Add(MakeFrame({.call_id = 2, .stream = 2, .experts = {9, 8}}));
  queue.Add(MakeFrame({.call_id = 3, .stream = 2, .layer = 2, .experts = {9}}));  // another layer
  const Unit unit = queue.TakeUnit(UnitRate(), kAnyBudget);
  EXPECT_EQ(unit.layer, 1);
  EXPECT_THAT(unit.experts, ElementsAre(7, 9));
  EXPECT_THAT(unit.first_row, ElementsAre(0, 1, 3));
  EXPECT_THAT(CallsOf(unit), ElementsAre(1, 1, 2));
  const Unit next = queue.TakeUnit(UnitRate(), kAnyBudget);
  EXPECT_THAT(next.experts, ElementsAre(8));
  EXPECT_THAT(CallsOf(next), ElementsAre(2));
}

TEST(FrameQueueTest, AUnitStaysWithinItsBudget) {
  FrameQueue queue;
  queue.Add(MakeFrame({.experts = std::vector<uint32_t>(500, 3)}));
  const UnitRate rate = RateOf(100'000, 9'000);
  EXPECT_EQ(queue.TakeUnit(rate, 1.005e6).rows.size(), 100u);
  EXPECT_EQ(queue.TakeUnit(rate, 0.555e6).rows.size(), 50u);

  FrameQueue many;
  many.Add(MakeFrame({.experts = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11}}));
  EXPECT_EQ(many.TakeUnit(RateOf(240'000, 10'000), 1e6).experts.size(), 4u);
}

TEST(FrameQueueTest, AnExpertsWeightsAreNotReadForAFewRowsOnly) {
  FrameQueue queue;
  queue.Add(MakeFrame({.experts = std::vector<uint32_t>(40, 3)}));
  // Even when a row takes longer than the budget.
  EXPECT_EQ(queue.TakeUnit(RateOf(5e6, 5e6), 1e6).rows.size(),
            static_cast<size_t>(FrameQueue::kLeastRows));
}

TEST(FrameQueueTest, AnUrgentFrameOvertakesOneThatIsHalfDone) {
  FrameQueue queue;
  queue.Add(MakeFrame({.call_id = 1, .qos = 3, .experts = {0, 1, 2}}));
  EXPECT_THAT(CallsOf(queue.TakeUnit(UnitRate(), 1)), ElementsAre(1));
  queue.Add(MakeFrame({.call_id = 2, .qos = 1, .experts = {1}}));
  // The urgent one leads; the other one's row of the same expert rides along.
  EXPECT_THAT(CallsOf(queue.TakeUnit(UnitRate(), 1)), ElementsAre(2, 1));
  EXPECT_THAT(CallsOf(queue.TakeUnit(UnitRate(), 1)), ElementsAre(1));
  EXPECT_FALSE(queue.Plannable());
}

TEST(FrameQueueTest, EveryReferenceIsPlannedExactlyOnce) {
  std::mt19937 random(3);
  for (int round = 0; round < 200; ++round) {
    FrameQueue queue;
    size_t added = 0;
    std::set<std::pair<uint64_t, uint32_t>> planned;
    for (uint64_t call = 1; call <= 12 || queue.Plannable(); ++call) {
      if (call <= 12) {
        FrameSpec spec{.call_id = call,
                       .qos = static_cast<uint8_t>(1 + random() % 4),
                       .layer = static_cast<uint32_t>(1 + random() % 2)};
        spec.experts.clear();
        for (size_t i = 0; i <= random() % 60; ++i) spec.experts.push_back(random() % 5);
        added += spec.experts.size();
        queue.Add(MakeFrame(spec));
      }
      if (!queue.Plannable() || random() % 3 == 0) continue;
      const Unit unit = queue.TakeUnit(RateOf(50'000, 20'000), 1e6);
      ASSERT_EQ(unit.first_row.size(), unit.experts.size() + 1);
      ASSERT_EQ(static_cast<size_t>(unit.first_row.back()), unit.rows.size());
      EXPECT_EQ(std::set<int32_t>(unit.experts.begin(), unit.experts.end()).size(),
                unit.experts.size());
      for (size_t e = 0; e < unit.experts.size(); ++e) {
        for (int32_t row = unit.first_row[e]; row < unit.first_row[e + 1]; ++row) {
          const UnitRow& entry = unit.rows[row];
          EXPECT_EQ(entry.frame->references[entry.reference].expert,
                    static_cast<uint32_t>(unit.experts[e]));
          EXPECT_EQ(entry.frame->header.layer, static_cast<uint32_t>(unit.layer));
          EXPECT_TRUE(planned.insert({entry.frame->header.call_id, entry.reference}).second)
              << "planned twice";
        }
      }
    }
    EXPECT_EQ(planned.size(), added);
  }
}

TEST(FrameQueueTest, CallsAndStreamsCanBeTakenOut) {
  FrameQueue queue;
  queue.Add(MakeFrame({.call_id = 1, .stream = 1}));
  queue.Add(MakeFrame({.call_id = 1, .stream = 2}));
  queue.Add(MakeFrame({.call_id = 2, .stream = 2}));
  EXPECT_EQ(queue.message_bytes(), 300u);
  EXPECT_EQ(queue.RemoveCall(3, 1), nullptr);
  EXPECT_EQ(queue.RemoveCall(1, 2), nullptr);
  EXPECT_EQ(queue.RemoveCall(1, 1)->stream, 1u);
  EXPECT_EQ(queue.RemoveStream(2).size(), 2u);
  EXPECT_TRUE(queue.empty());
  EXPECT_EQ(queue.message_bytes(), 0u);
}

TEST(FrameQueueTest, ExpiredFramesAreTakenOut) {
  const TimePoint t0 = TimePoint() + std::chrono::hours(1);
  FrameQueue queue;
  queue.Add(MakeFrame({.call_id = 1, .deadline = t0 + std::chrono::milliseconds(5)}));
  queue.Add(MakeFrame({.call_id = 2}));
  EXPECT_TRUE(queue.RemoveExpired(t0).empty());
  const auto expired = queue.RemoveExpired(t0 + std::chrono::milliseconds(5));
  ASSERT_EQ(expired.size(), 1u);
  EXPECT_EQ(expired[0]->header.call_id, 1u);
  EXPECT_EQ(queue.size(), 1u);
}

TEST(AnswerPartsTest, LongAnswersGoOutInPartsBelowTheFrameLimit) {
  auto sink = std::make_shared<CollectingSink>();
  auto frame = MakeFrame({.experts = std::vector<uint32_t>(1000, 3)});
  frame->header.hidden = 1024;  // 2 KiB a row
  frame->sink = sink;
  const size_t block = RowsPerBlock(2048);
  EXPECT_EQ(block, 128u);
  for (uint32_t first = 0; first < 1000; first += block) {
    std::vector<uint32_t> references;
    for (uint32_t i = first; i < std::min<uint32_t>(1000, first + block); ++i)
      references.push_back(i);
    rpc::FrameBuffer rows(references.size() * 2048);
    std::fill(rows.span().begin(), rows.span().end(), static_cast<std::byte>(first));
    AddAnswers(*frame, references, rpc::AnswerStatus::kOk, std::move(rows));
  }
  const auto parts = sink->parts();
  EXPECT_EQ(parts.size(), 8u);
  size_t answers = 0;
  for (const auto& part : parts) {
    EXPECT_LE(part.bytes.size(), rpc::kMaxFrameBytes);
    answers += part.results.answers.size();
    EXPECT_EQ(part.results.header.last, answers == 1000);
  }
  EXPECT_EQ(answers, 1000u);
}

TEST(AnswerPartsTest, TheRestIsAnsweredOnce) {
  auto sink = std::make_shared<CollectingSink>();
  FrameQueue queue;
  auto owned = MakeFrame({.experts = {4, 2, 4}});
  owned->sink = sink;
  PendingFrame* frame = owned.get();
  queue.Add(std::move(owned));
  const Unit unit = queue.TakeUnit(UnitRate(), 1);  // expert 2, reference 1
  ASSERT_EQ(unit.rows.size(), 1u);
  AddAnswers(*frame, std::vector<uint32_t>{1}, rpc::AnswerStatus::kNotHeld, {});
  AnswerRest(*frame, rpc::AnswerStatus::kDeadlineExceeded);
  ASSERT_TRUE(frame->answered());
  const auto parts = sink->parts();
  ASSERT_EQ(parts.size(), 1u);
  EXPECT_TRUE(parts[0].results.header.last);
  EXPECT_THAT(parts[0].results.answers,
              ElementsAre(rpc::Answer{1, rpc::AnswerStatus::kNotHeld},
                          rpc::Answer{0, rpc::AnswerStatus::kDeadlineExceeded},
                          rpc::Answer{2, rpc::AnswerStatus::kDeadlineExceeded}));
}

}  // namespace
}  // namespace conclave::expert

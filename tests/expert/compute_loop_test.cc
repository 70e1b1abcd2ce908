#include "services/expert/compute_loop.h"

#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/expert/answer_parts.h"
#include "shared/base/clock.h"
#include "shared/metrics/registry.h"
#include "shared/weights/checkpoint.h"
#include "tests/expert/collecting_sink.h"

namespace conclave::expert {
namespace {

using std::chrono::milliseconds;
using ::testing::HasSubstr;

constexpr int32_t kLayer = 1;

class ComputeLoopTest : public ::testing::Test {
 protected:
  ComputeLoopTest() : metrics_(&registry_) {
    auto checkpoint = weights::Checkpoint::Open(CONCLAVE_SOURCE_DIR "/tests/golden/qwen2_moe", {});
    EXPECT_TRUE(checkpoint.ok()) << checkpoint.status();
    experts_ =
        std::make_unique<experts::ExpertSet>(*std::move(checkpoint), kernels::NumericsClass::kBf16);
    for (int32_t expert = 0; expert < 4; ++expert)
      EXPECT_TRUE(experts_->Load({kLayer, expert}).ok());
    hidden_ = experts_->config().hidden;
  }

  std::unique_ptr<ComputeLoop> StartLoop(size_t max_arrivals = 64) {
    return std::make_unique<ComputeLoop>(
        ComputeOptions{.cpu_level = kernels::BestCpuLevel(), .max_arrivals = max_arrivals},
        experts_.get(), &clock_, &metrics_);
  }

  // A frame of `rows` rows, each at every one of `experts`.
  std::unique_ptr<PendingFrame> MakeFrame(uint64_t call_id, uint32_t rows,
                                          const std::vector<uint32_t>& experts,
                                          uint64_t stream = 1) {
    auto memory = std::make_shared<std::vector<std::byte>>(rows * hidden_ * 2);
    std::mt19937 random(static_cast<uint32_t>(call_id));
    std::normal_distribution<float> normal;
    for (uint32_t i = 0; i < rows * hidden_; ++i) {
      const kernels::bf16 value = kernels::ToBf16(normal(random));
      std::memcpy(memory->data() + 2 * i, &value, 2);
    }
    auto frame = std::make_unique<PendingFrame>();
    frame->stream = stream;
    frame->header.call_id = call_id;
    frame->header.layer = kLayer;
    frame->header.hidden = static_cast<uint32_t>(hidden_);
    frame->header.num_rows = rows;
    for (uint32_t row = 0; row < rows; ++row) {
      frame->rows.push_back(memory->data() + row * hidden_ * 2);
      for (const uint32_t expert : experts) frame->references.push_back({row, expert});
    }
    frame->keeper = memory;
    frame->message_bytes = 1000;
    frame->sink = sink_;
    frame->arrival = clock_.Now();
    return frame;
  }

  // What the experts give for the frame's references, in their order.
  std::vector<std::vector<std::byte>> Wanted(const PendingFrame& frame) {
    kernels::Context context(kernels::CpuLevel::kReference, 1);
    experts::ExpertScratch scratch;
    std::vector<std::vector<std::byte>> wanted;
    for (const rpc::RowReference& reference : frame.references) {
      std::vector<std::byte> row(hidden_ * 2);
      const int32_t expert = static_cast<int32_t>(reference.expert);
      const int32_t first_row[] = {0, 1};
      const std::byte* inputs[] = {frame.rows[reference.row]};
      std::byte* outputs[] = {row.data()};
      EXPECT_TRUE(experts::ComputeExpertRows(*experts_,
                                             {.layer = kLayer,
                                              .type = kernels::RowType::kBf16,
                                              .hidden = hidden_,
                                              .experts = {&expert, 1},
                                              .first_row = first_row,
                                              .inputs = inputs,
                                              .outputs = outputs},
                                             scratch, context)
                      .ok());
      wanted.push_back(std::move(row));
    }
    return wanted;
  }

  // The rows of all parts of one call, by reference; empty where the answer is not OK.
  std::vector<std::vector<std::byte>> Answered(const std::vector<CollectingSink::Part>& parts,
                                               uint64_t call_id, size_t references) {
    std::vector<std::vector<std::byte>> rows(references);
    for (const auto& part : parts) {
      if (part.results.header.call_id != call_id) continue;
      size_t offset = part.results.rows.offset;
      for (const rpc::Answer& answer : part.results.answers) {
        if (answer.status != rpc::AnswerStatus::kOk) continue;
        rows[answer.reference].assign(part.bytes.begin() + offset,
                                      part.bytes.begin() + offset + hidden_ * 2);
        offset += hidden_ * 2;
      }
    }
    return rows;
  }

  SteadyClock clock_;
  metrics::Registry registry_;
  WorkerMetrics metrics_;
  std::unique_ptr<experts::ExpertSet> experts_;
  int64_t hidden_ = 0;
  std::shared_ptr<CollectingSink> sink_ = std::make_shared<CollectingSink>();
};

TEST_F(ComputeLoopTest, FramesOfTwoEnginesGetEachTheirOwnRows) {
  const auto loop = StartLoop();
  const auto first = MakeFrame(1, 5, {0, 1, 3}, 1), second = MakeFrame(2, 3, {1, 2}, 2);
  const auto wanted_first = Wanted(*first), wanted_second = Wanted(*second);
  ASSERT_TRUE(loop->Submit(MakeFrame(1, 5, {0, 1, 3}, 1)));
  ASSERT_TRUE(loop->Submit(MakeFrame(2, 3, {1, 2}, 2)));
  const auto parts = sink_->WaitForDone(2);
  EXPECT_EQ(Answered(parts, 1, wanted_first.size()), wanted_first);
  EXPECT_EQ(Answered(parts, 2, wanted_second.size()), wanted_second);
  EXPECT_EQ(sink_->done_bytes(), 2000u);
  EXPECT_EQ(loop->pending(), 0);
}

TEST_F(ComputeLoopTest, ManyRowsComeInPartsAndAreTheSame) {
  const auto loop = StartLoop();
  const auto wanted = Wanted(*MakeFrame(1, 3000, {2}));
  ASSERT_TRUE(loop->Submit(MakeFrame(1, 3000, {2})));  // 562 KiB of results
  const auto parts = sink_->WaitForDone(1);
  EXPECT_GE(parts.size(), 2u);
  EXPECT_EQ(Answered(parts, 1, wanted.size()), wanted);
}

TEST_F(ComputeLoopTest, ExpertsThatAreNotHeldAreSaidSoAndTheOthersServed) {
  const auto loop = StartLoop();
  ASSERT_TRUE(loop->Submit(MakeFrame(1, 1, {0, 9, 3})));
  const auto parts = sink_->WaitForDone(1);
  std::vector<rpc::AnswerStatus> statuses(3, rpc::AnswerStatus::kDeadlineExceeded);
  for (const auto& part : parts) {
    for (const rpc::Answer& answer : part.results.answers)
      statuses[answer.reference] = answer.status;
  }
  EXPECT_THAT(statuses, ::testing::ElementsAre(rpc::AnswerStatus::kOk, rpc::AnswerStatus::kNotHeld,
                                               rpc::AnswerStatus::kOk));
}

TEST_F(ComputeLoopTest, AFrameWhoseTimeHasPassedIsNotComputed) {
  const auto loop = StartLoop();
  auto frame = MakeFrame(1, 2, {0});
  frame->deadline = clock_.Now() - milliseconds(1);
  ASSERT_TRUE(loop->Submit(std::move(frame)));
  const auto parts = sink_->WaitForDone(1);
  ASSERT_EQ(parts.size(), 1u);
  EXPECT_TRUE(parts[0].results.header.last);
  for (const rpc::Answer& answer : parts[0].results.answers) {
    EXPECT_EQ(answer.status, rpc::AnswerStatus::kDeadlineExceeded);
  }
}

TEST_F(ComputeLoopTest, CancelledCallsAndClosedStreamsFreeTheirMemoryWithoutAnAnswer) {
  const auto loop = StartLoop();
  // A long frame keeps the thread busy while the others are cancelled behind it.
  ASSERT_TRUE(loop->Submit(MakeFrame(1, 4000, {0, 1, 2, 3}, 1)));
  auto low = MakeFrame(2, 1, {0}, 2);
  auto other = MakeFrame(3, 1, {0}, 3);
  low->header.layer = other->header.layer = 2;  // not joined with the long one
  low->header.qos = other->header.qos = 4;
  ASSERT_TRUE(loop->Submit(std::move(low)));
  ASSERT_TRUE(loop->Submit(std::move(other)));
  loop->Cancel(2, 2);
  loop->CloseStream(3);
  for (const auto& part : sink_->WaitForDone(3)) EXPECT_EQ(part.results.header.call_id, 1u);
  EXPECT_EQ(loop->pending(), 0);
}

TEST_F(ComputeLoopTest, RefusesFramesBeyondItsLimitUnharmed) {
  const auto loop = StartLoop(1);
  sink_->Hold();  // the compute thread cannot get beyond its first answer
  int accepted = 0, refused = 0;
  for (uint64_t call = 1; call <= 20; ++call) {
    auto frame = MakeFrame(call, 20, {0});
    if (loop->Submit(std::move(frame))) {
      ++accepted;
    } else {
      ++refused;
      ASSERT_NE(frame, nullptr);
      EXPECT_EQ(frame->header.call_id, call);
    }
  }
  EXPECT_GT(refused, 0);
  sink_->Release();
  sink_->WaitForDone(accepted);
}

TEST_F(ComputeLoopTest, EndsWhileFramesWait) {
  auto loop = StartLoop();
  for (uint64_t call = 1; call <= 20; ++call)
    ASSERT_TRUE(loop->Submit(MakeFrame(call, 500, {0, 1, 2, 3})));
  loop.reset();
}

TEST_F(ComputeLoopTest, CountsWhatItDoes) {
  const auto loop = StartLoop();
  ASSERT_TRUE(loop->Submit(MakeFrame(1, 5, {0, 3})));
  sink_->WaitForDone(1);
  const std::string text = registry_.Expose();
  EXPECT_THAT(text, HasSubstr("conclave_worker_rows_total{expert=\"0\",layer=\"1\"} 5"));
  EXPECT_THAT(text, HasSubstr("conclave_worker_rows_total{expert=\"3\",layer=\"1\"} 5"));
  EXPECT_THAT(text, HasSubstr("conclave_worker_frames_total 1"));
  EXPECT_THAT(text, HasSubstr("conclave_worker_queue_seconds_count 1"));
}

}  // namespace
}  // namespace conclave::expert

// Random schedules: whatever the scheduler may do to a set of sequences (cut prompts anywhere, mix
// prefill, decode and drafts, take sequences out and compute them again in other blocks) leaves
// their logits' bits alone.

#include <gtest/gtest.h>
#include <rapidcheck.h>

#include <algorithm>
#include <cstring>
#include <string>
#include <vector>

#include "tests/support/invariance.h"
#include "tests/support/temp_dir.h"
#include "tests/support/tiny_checkpoint.h"

namespace conclave::testing {
namespace {

// One step of one sequence.
struct Move {
  int sequence = 0;
  int64_t num_tokens = 1;  // fewer at the end of the prompt
  int64_t num_logits = 1;  // at most the tokens
  bool preempt = false;    // before the step: its blocks are given back, it starts again
};

rc::Gen<std::vector<Move>> StepOf(int num_sequences) {
  const auto move = rc::gen::build<Move>(
      rc::gen::set(&Move::sequence, rc::gen::inRange(0, num_sequences)),
      rc::gen::set(&Move::num_tokens,
                   rc::gen::oneOf(rc::gen::just<int64_t>(1), rc::gen::inRange<int64_t>(1, 50))),
      rc::gen::set(&Move::num_logits, rc::gen::inRange<int64_t>(0, 50)),
      rc::gen::set(&Move::preempt,
                   rc::gen::map(rc::gen::inRange(0, 12), [](int x) { return x == 0; })));
  return rc::gen::container<std::vector<Move>>(move);
}

// Plays the steps and compares every row of logits.
void Play(const InvarianceCase& expected, ForwardRig& rig,
          const std::vector<std::vector<Move>>& steps) {
  const int64_t vocab = expected.model->config().vocab_size;
  for (const std::vector<Move>& step : steps) {
    std::vector<ForwardRig::Part> parts;
    std::vector<bool> taken(expected.prompts.size(), false);
    for (const Move& move : step) {
      if (taken[move.sequence]) continue;
      taken[move.sequence] = true;
      if (move.preempt) rig.Forget(move.sequence);
      const auto& ids = expected.prompts[move.sequence];
      const int64_t done = rig.num_tokens(move.sequence);
      const int64_t count = std::min(move.num_tokens, static_cast<int64_t>(ids.size()) - done);
      if (count == 0) continue;
      parts.push_back(
          {.sequence = move.sequence,
           .ids = std::span(ids).subspan(static_cast<size_t>(done), static_cast<size_t>(count)),
           .num_logits = static_cast<int32_t>(std::min(move.num_logits, count))});
    }
    const engine::ForwardOutput& output = rig.Step(parts);
    const float* row = output.logits.data();
    for (size_t i = 0; i < parts.size(); ++i) {
      RC_ASSERT(output.status[i].ok());
      const int64_t first = rig.num_tokens(parts[i].sequence) - parts[i].num_logits;
      for (int64_t j = 0; j < parts[i].num_logits; ++j, row += vocab) {
        const float* wanted = expected.expected[parts[i].sequence].data() + (first + j) * vocab;
        RC_ASSERT(std::memcmp(row, wanted, static_cast<size_t>(vocab) * sizeof(float)) == 0);
      }
    }
  }
}

class ForwardScheduleTest : public ::testing::TestWithParam<std::string_view> {};

TEST_P(ForwardScheduleTest, AnyScheduleGivesTheSameBits) {
  for (const kernels::NumericsClass numerics :
       {kernels::NumericsClass::kF32, kernels::NumericsClass::kBf16}) {
    const TempDir dir;
    WriteTinyCheckpoint(GetParam(), 77, dir.path());
    auto model = LoadModel(dir.path(), numerics);
    ASSERT_TRUE(model.ok()) << model.status();
    const InvarianceCase expected =
        MakeInvarianceCase(*std::move(model), {90, 40, 33, 3, 1, 270}, 5);
    EXPECT_TRUE(rc::check("any schedule gives the same bits", [&] {
      const auto steps = *rc::gen::container<std::vector<std::vector<Move>>>(
          StepOf(static_cast<int>(expected.prompts.size())));
      ForwardRig rig(expected.model, {.num_threads = *rc::gen::inRange(1, 4),
                                      .num_blocks = 24,
                                      .shuffle_seed = *rc::gen::arbitrary<uint64_t>()});
      Play(expected, rig, steps);
    }));
  }
}

INSTANTIATE_TEST_SUITE_P(Families, ForwardScheduleTest, ::testing::ValuesIn(kFamilies),
                         [](const auto& info) { return std::string(info.param); });

}  // namespace
}  // namespace conclave::testing

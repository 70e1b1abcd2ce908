// Sequences with a common prefix: who shares which blocks, and what is left to be computed.
#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "services/engine/scheduler.h"
#include "tests/engine/scheduler_fixture.h"

namespace conclave::engine {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;
using testing::Pair;

// Prompts are all prefixes of one text.
class SchedulerPrefixTest : public testing::Test {
 protected:
  explicit SchedulerPrefixTest(int32_t num_blocks = 16) : f_(num_blocks, {}, /*reuse=*/true) {}

  const Sequence* Add(uint64_t id, int64_t prompt_tokens, int64_t max_tokens,
                      QosClass qos = QosClass::kInteractive) {
    SequenceRequest request = f_.Request(id, prompt_tokens, max_tokens);
    request.qos = qos;
    EXPECT_TRUE(f_.scheduler.Add(std::move(request)).ok());
    return f_.scheduler.Find({1, id});
  }

  SchedulerFixture f_;
};

TEST_F(SchedulerPrefixTest, SharesTheBlocksOfARunningSequence) {
  const Sequence* first = Add(1, 70, 50);
  EXPECT_THAT(f_.Step(), ElementsAre(Pair(1, 70)));
  const Sequence* second = Add(2, 100, 50);
  EXPECT_THAT(f_.Step(), ElementsAre(Pair(1, 1), Pair(2, 36)));
  EXPECT_EQ(second->cached_tokens, 64);
  EXPECT_EQ(first->cached_tokens, 0);
  EXPECT_EQ(second->blocks[0], first->blocks[0]);
  EXPECT_EQ(second->blocks[1], first->blocks[1]);
  EXPECT_NE(second->blocks[2], first->blocks[2]);
  EXPECT_EQ(f_.cache.references(first->blocks[0]), 2);
  EXPECT_EQ(f_.cache.used_blocks(), 3 + 2);
  f_.scheduler.Remove({1, 1});
  EXPECT_EQ(f_.cache.used_blocks(), 4);
  f_.scheduler.Remove({1, 2});
  EXPECT_EQ(f_.cache.used_blocks(), 0);
  EXPECT_EQ(f_.cache.cached_blocks(), 3);
}

TEST_F(SchedulerPrefixTest, TakesOverWhatAnEndedOneHasLeft) {
  Add(1, 60, 10);
  while (f_.scheduler.num_running() + f_.scheduler.num_waiting() > 0) f_.Step();
  // 69 ids were computed: its prompt, and what it generated up to the last one.
  std::vector<int32_t> ids = SomeIds(60);
  ids.insert(ids.end(), 40, 7);
  SequenceRequest next = f_.Request(2, 1, 5);
  next.prompt_ids = ids;
  ASSERT_TRUE(f_.scheduler.Add(std::move(next)).ok());
  EXPECT_THAT(f_.Step(), ElementsAre(Pair(2, 100 - 64)));
  EXPECT_EQ(f_.scheduler.Find({1, 2})->cached_tokens, 64);
}

TEST_F(SchedulerPrefixTest, TheLastIdIsAlwaysComputed) {
  for (uint64_t id = 1; id <= 2; ++id) {
    const Sequence* sequence = Add(id, 64, 1);
    const StepPlan plan = f_.scheduler.Plan();
    ASSERT_EQ(plan.sequences.size(), 1u);
    EXPECT_EQ(plan.sequences[0].num_tokens, id == 1 ? 64 : 32);
    EXPECT_EQ(sequence->cached_tokens, id == 1 ? 0 : 32);
    f_.scheduler.Computed(plan.sequences[0].sequence, plan.sequences[0].num_tokens);
    f_.scheduler.Remove({1, id});
  }
}

TEST_F(SchedulerPrefixTest, TenantsWithOtherSaltsShareNothing) {
  Add(1, 70, 5);
  f_.Step();
  SequenceRequest salted = f_.Request(2, 70, 5);
  salted.tenant_salt = "other";
  ASSERT_TRUE(f_.scheduler.Add(std::move(salted)).ok());
  EXPECT_THAT(f_.Step(), ElementsAre(Pair(1, 1), Pair(2, 70)));
}

TEST_F(SchedulerPrefixTest, SharedBlocksAreNotNeededTwice) {
  Add(1, 14 * 32, 9);
  f_.Step();
  EXPECT_EQ(f_.cache.free_blocks(), 2);
  Add(2, 14 * 32, 9);  // one of its own, and one for each that runs
  EXPECT_THAT(f_.Step(), ElementsAre(Pair(1, 1)));
  f_.scheduler.Remove({1, 1});
  EXPECT_THAT(f_.Step(), ElementsAre(Pair(2, 32)));
}

// Of a lower class, holding the prefix that the newcomer shares: it goes, its blocks stay.
TEST_F(SchedulerPrefixTest, APreemptedOnesBlocksServeWhoPreemptedIt) {
  Add(1, 14 * 32, 60, QosClass::kBatch);
  f_.Step();
  const Sequence* urgent = Add(2, 15 * 32, 9, QosClass::kRealtime);
  EXPECT_THAT(f_.Step(), ElementsAre(Pair(2, 32)));
  EXPECT_EQ(urgent->cached_tokens, 14 * 32);
  EXPECT_EQ(f_.scheduler.num_preemptions(), 1);
  f_.scheduler.Remove({1, 2});
  // Back again, it finds its own; that is no use of the cache by its prompt.
  const Sequence* batch = f_.scheduler.Find({1, 1});
  EXPECT_THAT(f_.Step(), ElementsAre(Pair(1, 1)));
  EXPECT_EQ(batch->cached_tokens, 0);
  EXPECT_EQ(batch->num_computed, 14 * 32 + 1);
}

TEST_F(SchedulerPrefixTest, ThePrefixIsKeptLongerThanWhatFollowsIt) {
  Add(1, 5 * 32, 1);
  f_.Step();  // leaves five blocks
  EXPECT_EQ(f_.cache.cached_blocks(), 5);
  SequenceRequest other = f_.Request(2, 13 * 32, 1);  // takes eleven empty ones and two of these
  other.tenant_salt = "other";
  ASSERT_TRUE(f_.scheduler.Add(std::move(other)).ok());
  f_.Step();
  Add(3, 5 * 32, 1);
  EXPECT_THAT(f_.Step(), ElementsAre(Pair(3, 2 * 32)));
}

TEST(SchedulerWithoutPrefixCache, ComputesEverything) {
  SchedulerFixture f(16);
  for (uint64_t id = 1; id <= 2; ++id) {
    ASSERT_TRUE(f.scheduler.Add(f.Request(id, 70, 1)).ok());
    EXPECT_THAT(f.Step(), ElementsAre(Pair(id, 70)));
    EXPECT_EQ(f.cache.cached_blocks(), 0);
  }
}

}  // namespace
}  // namespace conclave::engine

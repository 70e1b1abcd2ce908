// The scheduler of requests and what engines have in their KV caches: the hashes of a prompt are
// taken, remembered for the engine that gets it, and heeded for the next one.

#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "tests/gateway/request_scheduler_fixture.h"

namespace conclave::gateway {
namespace {

class RequestSchedulerPrefixTest : public RequestSchedulerTest {
 protected:
  // Two engines without load, of which the first gets what either could take.
  void StartTwo() {
    Start({}, 0, kKvTokens);
    other_.Join(&engines_, "engine-1", 0, kKvTokens);
  }
  // One request whose prompt is computed by engine-1, because engine-0 has another one just then.
  void TellOther(const Ask& ask) {
    Submit({.prompt = 4});
    ASSERT_EQ(engine_.started.size(), 1U);
    Submit(ask);
    ASSERT_EQ(other_.started.size(), 1U);
    FinishBoth();
  }
  void FinishBoth() {
    Finish();
    while (other_.num_running() > 0) {
      for (const SequenceEvent& event : other_.Step(1000)) scheduler_->OnEvent(event);
    }
    ASSERT_EQ(scheduler_->num_running(), 0);
  }
  // The name of the engine that one more request goes to, once it has ended.
  std::string EngineOf(const Ask& ask) {
    const size_t before = other_.started.size();
    Submit(ask);
    const bool went_to_other = other_.started.size() > before;
    FinishBoth();
    return went_to_other ? "engine-1" : "engine-0";
  }

  static constexpr int64_t kKvTokens = 10'000;
  SimulatedEngine other_;
};

TEST_F(RequestSchedulerPrefixTest, TheNextTurnGoesWhereThePromptBeganBefore) {
  StartTwo();
  TellOther({.prompt = 320});
  EXPECT_EQ(EngineOf({.prompt = 400}), "engine-1");
  EXPECT_EQ(EngineOf({.prompt = 31}), "engine-0") << "less than a block is in no cache";
  EXPECT_EQ(EngineOf({.prompt = 480}), "engine-1") << "what it got as a second turn counts too";
}

TEST_F(RequestSchedulerPrefixTest, EachEngineIsRememberedForItsOwnPrompts) {
  StartTwo();
  TellOther({.prompt = 320});
  const Tenant own{.name = "own", .shares_cache = false};
  EXPECT_EQ(EngineOf({.tenant = &own, .prompt = 400}), "engine-0") << "another tenant's salt";
  EXPECT_EQ(EngineOf({.prompt = 400}), "engine-1");
}

TEST_F(RequestSchedulerPrefixTest, LoadCountsForMoreThanAShortPrefix) {
  StartTwo();
  TellOther({.prompt = 320});
  for (int i = 0; i < 4; ++i) Submit({.answer = 1000});
  ASSERT_EQ(engine_.num_running(), 2);
  ASSERT_EQ(other_.num_running(), 2);
  Submit({.prompt = 320});
  Submit({.prompt = 320});
  EXPECT_EQ(other_.num_running(), 4) << "320 tokens are worth more than a sequence";
  Submit({.prompt = 320});
  EXPECT_EQ(engine_.num_running(), 3) << "and less than two";
  scheduler_.reset();
}

TEST_F(RequestSchedulerPrefixTest, AnEngineWithoutAPrefixCacheHasNothingToReturnTo) {
  StartTwo();
  engines_.Find("engine-1")->identity->prefix_cache = false;
  TellOther({.prompt = 320});
  EXPECT_EQ(EngineOf({.prompt = 400}), "engine-0");
}

TEST_F(RequestSchedulerPrefixTest, NoMoreIsRememberedThanTheCacheHolds) {
  StartTwo();
  EngineSet::Engine& other = *engines_.Find("engine-1");
  other.identity->kv_tokens = 64;
  TellOther({.prompt = 320});
  other.identity->kv_tokens = kKvTokens;
  EXPECT_EQ(other.prefixes.LongestPrefix(PrefixHashes("", std::vector<int32_t>(320, kPromptId))),
            64);
}

}  // namespace
}  // namespace conclave::gateway

#include <atomic>
#include <chrono>
#include <cstring>
#include <random>
#include <set>
#include <string>
#include <thread>

#include "tests/engine/remote_dispatch_fixture.h"

namespace conclave::engine {
namespace {

using RemoteDispatchChaosTest = RemoteDispatchFixture;

// Every expert is on two of three workers, and one worker at a time dies and comes back while two
// engines work.
TEST_F(RemoteDispatchChaosTest, WhoeverDiesEveryRowThatIsServedIsRight) {
  for (int i = 0; i < 3; ++i) {
    AddWorker(i, 3);
    ExpertKeys keys;
    for (const ExpertKey& key : identity_.AllExperts()) {
      if (key.expert % 3 != i) keys.insert(key);
    }
    workers_[i]->Load(keys);
    topology_.models[0].workers[i].serve = keys;
  }
  constexpr uint32_t kShapes = 8;
  std::vector<std::vector<std::byte>> wanted;
  for (uint32_t seed = 0; seed < kShapes; ++seed) {
    wanted.push_back(LocalResults(1, 1 + seed * 9, seed));
  }
  std::atomic<bool> stop = false;
  std::atomic<int> tokens_served = 0, tokens_failed = 0;
  const auto engine = [&] {
    const auto dispatch = Connect();
    EXPECT_TRUE(WaitForMissing(*dispatch, 0));
    for (uint32_t seed = 0; !stop; seed = (seed + 1) % kShapes) {
      const auto memory = MakeCall(1, 1 + seed * 9, seed);
      const ExpertOutcome outcome = Run(*dispatch, *memory);
      std::set<int64_t> failed;
      for (const FailedToken& token : outcome.failed) {
        EXPECT_EQ(token.status.code(), absl::StatusCode::kUnavailable) << token.status;
        failed.insert(token.token);
      }
      const size_t token_bytes = wanted[seed].size() / memory->call.num_tokens;
      for (int64_t token = 0; token < memory->call.num_tokens; ++token) {
        if (failed.contains(token)) continue;
        ++tokens_served;
        EXPECT_EQ(std::memcmp(&memory->results[token * token_bytes],
                              &wanted[seed][token * token_bytes], token_bytes),
                  0);
      }
      tokens_failed += static_cast<int>(failed.size());
    }
  };
  std::thread first(engine), second(engine);
  std::mt19937 random(7);
  for (int round = 0; round < 10; ++round) {
    ServedExperts& victim = *workers_[random() % 3];
    victim.Kill();
    victim.Serve(victim.address());
    // Both engines work with it again before the next one dies.
    const int frames = FramesOf(victim);
    EXPECT_TRUE(WaitFor([&] { return FramesOf(victim) >= frames + 50; })) << "the engines hang";
  }
  stop = true;
  first.join();
  second.join();
  EXPECT_GT(tokens_served, tokens_failed);
}

}  // namespace
}  // namespace conclave::engine

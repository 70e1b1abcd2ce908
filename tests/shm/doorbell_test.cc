#include "shared/shm/doorbell.h"

#include <gtest/gtest.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>

#include <array>
#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "shared/shm/shared_memory.h"
#include "tests/shm/child.h"
#include "tests/support/wait.h"

namespace conclave::shm {
namespace {

using conclave::testing::Child;
using conclave::testing::WaitFor;
using std::chrono::milliseconds;
using std::chrono::seconds;

// Longer than any wait that is ended by a ring: who waits so long was not woken.
constexpr Duration kForever = seconds(60);

// Waits until somebody rang since `seen`. False: nobody did in all the time there is.
bool AwaitRing(Doorbell& bell, uint32_t seen) {
  const auto deadline = std::chrono::steady_clock::now() + kForever / 2;
  while (!bell.Wait(seen, kForever)) {
    if (std::chrono::steady_clock::now() > deadline) return false;
  }
  return true;
}

TEST(DoorbellTest, ARingBeforeTheWaitEndsIt) {
  Doorbell bell;
  const uint32_t seen = bell.Look();
  bell.Ring();
  EXPECT_TRUE(bell.Wait(seen, Duration::zero()));
  EXPECT_TRUE(bell.Wait(seen, kForever));
  EXPECT_NE(bell.Look(), seen);
}

TEST(DoorbellTest, WaitsOutItsPatience) {
  Doorbell bell;
  bell.Ring();
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_FALSE(bell.Wait(bell.Look(), milliseconds(30)));
  EXPECT_GE(std::chrono::steady_clock::now() - begin, milliseconds(29));
  EXPECT_FALSE(bell.Wait(bell.Look(), Duration::zero()));
  EXPECT_FALSE(bell.Wait(bell.Look(), milliseconds(-1)));
}

TEST(DoorbellTest, AWaitThatEndedLeavesNoTrace) {
  Doorbell bell;
  const uint32_t seen = bell.Look();
  EXPECT_FALSE(bell.Wait(seen, milliseconds(1)));
  EXPECT_EQ(bell.Look(), seen);
}

struct BellAndNews {
  Doorbell bell;
  std::atomic<bool> rung;
};

// Rings in a process that the kernel kills for almost any system call.
bool RingsWithoutSystemCalls(BellAndNews& shared) {
  shared.rung = false;
  Child child([&] {
    if (prctl(PR_SET_SECCOMP, SECCOMP_MODE_STRICT) != 0) return false;
    shared.bell.Ring();
    shared.rung = true;
    while (true) {
    }
  });
  return WaitFor([&] { return shared.rung.load(); });
}

TEST(DoorbellTest, RingsWithoutASystemCallWhileNobodyWaits) {
  auto memory = SharedMemory::Create("bell", sizeof(BellAndNews));
  ASSERT_TRUE(memory.ok()) << memory.status();
  BellAndNews& shared = *reinterpret_cast<BellAndNews*>(memory->bytes().data());
  const uint32_t seen = shared.bell.Look();
  EXPECT_TRUE(RingsWithoutSystemCalls(shared));
  EXPECT_NE(shared.bell.Look(), seen);
  // After a wait too, whether a ring or time ended it.
  EXPECT_TRUE(shared.bell.Wait(seen, kForever));
  EXPECT_FALSE(shared.bell.Wait(shared.bell.Look(), milliseconds(1)));
  EXPECT_TRUE(RingsWithoutSystemCalls(shared));
}

TEST(DoorbellTest, WakesAcrossThreadsAndOrdersWhatTheyWrite) {
  constexpr int kRounds = 20000;
  std::array<Doorbell, 2> bells;
  int value = 0;  // not atomic: the doorbells alone hand it over
  std::atomic<bool> failed = false;
  const auto run = [&](int side) {
    uint32_t seen = 0;  // no ring yet
    for (int round = 0; round < kRounds && !failed; ++round) {
      if (round > 0 || side == 1) {
        if (!AwaitRing(bells[side], seen)) failed = true;
        seen = bells[side].Look();
      }
      if (value != 2 * round + side) failed = true;
      ++value;
      bells[1 - side].Ring();
    }
  };
  std::thread other(run, 1);
  run(0);
  other.join();
  EXPECT_FALSE(failed);
  EXPECT_EQ(value, 2 * kRounds);
}

TEST(DoorbellTest, ManyMayRing) {
  constexpr int kRingers = 3, kRings = 20000;
  Doorbell bell;
  std::atomic<int> rung = 0;
  std::vector<std::thread> ringers;
  for (int i = 0; i < kRingers; ++i) {
    ringers.emplace_back([&] {
      for (int ring = 0; ring < kRings; ++ring) {
        rung.fetch_add(1, std::memory_order_relaxed);
        bell.Ring();
      }
    });
  }
  bool woken = true;
  while (woken) {
    const uint32_t seen = bell.Look();
    if (rung.load(std::memory_order_relaxed) == kRingers * kRings) break;
    woken = AwaitRing(bell, seen);
  }
  for (std::thread& ringer : ringers) ringer.join();
  EXPECT_TRUE(woken) << "after " << rung << " rings";
}

TEST(DoorbellTest, WakesAcrossProcesses) {
  constexpr int kRounds = 2000;
  auto memory = SharedMemory::Create("bells", 2 * sizeof(Doorbell));
  ASSERT_TRUE(memory.ok()) << memory.status();
  auto* bells = reinterpret_cast<Doorbell*>(memory->bytes().data());
  Child child([&] {
    uint32_t seen = 0;
    for (int round = 0; round < kRounds; ++round) {
      if (!AwaitRing(bells[1], seen)) return false;
      seen = bells[1].Look();
      bells[0].Ring();
    }
    return true;
  });
  for (int round = 0; round < kRounds; ++round) {
    const uint32_t seen = bells[0].Look();
    bells[1].Ring();
    ASSERT_TRUE(AwaitRing(bells[0], seen)) << "round " << round;
  }
  EXPECT_EQ(child.Join(), 0);
}

TEST(DoorbellTest, WaitsNoLongerWhateverOthersWrite) {
  Doorbell bell;
  std::atomic<bool> over = false;
  std::thread scribbler([&] {
    std::atomic_ref<uint32_t> word(*reinterpret_cast<uint32_t*>(&bell));
    for (uint32_t i = 0; !over; ++i) word.store(i % 2 == 0 ? 1 : 0);
  });
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 20; ++i) {
    EXPECT_FALSE(bell.Wait(0, milliseconds(5)));  // the bits above the lowest stay as they are
  }
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(30));
  over = true;
  scribbler.join();
}

}  // namespace
}  // namespace conclave::shm

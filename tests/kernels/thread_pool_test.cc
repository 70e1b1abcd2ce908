#include "kernels/thread_pool.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <vector>

namespace conclave::kernels {
namespace {

class ThreadPoolTest : public ::testing::TestWithParam<int> {};

TEST_P(ThreadPoolTest, CoversEveryIndexOnce) {
  ThreadPool pool(GetParam());
  for (int64_t count : {0, 1, 2, 3, 7, 64, 1000}) {
    for (int64_t grain : {0, 1, 3, 100, 5000}) {
      std::vector<std::atomic<int>> visits(static_cast<size_t>(count));
      pool.ParallelFor(count, grain, [&](int64_t begin, int64_t end, int thread) {
        ASSERT_GE(thread, 0);
        ASSERT_LT(thread, pool.num_threads());
        ASSERT_TRUE(end - begin >= grain || end == count);
        for (int64_t i = begin; i < end; ++i) ++visits[static_cast<size_t>(i)];
      });
      for (const auto& visit : visits) ASSERT_EQ(visit, 1) << count << " " << grain;
    }
  }
}

TEST_P(ThreadPoolTest, RunsManyShortJobsInOrder) {
  ThreadPool pool(GetParam());
  std::vector<int64_t> sums(64, 0);
  for (int64_t job = 0; job < 5000; ++job) {
    pool.ParallelFor(64, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) sums[static_cast<size_t>(i)] += job;
    });
  }
  for (int64_t sum : sums) EXPECT_EQ(sum, 4999 * 5000 / 2);
}

// Between jobs the threads stop spinning and wait for the kernel to wake them.
TEST_P(ThreadPoolTest, WakesThreadsThatFellAsleep) {
  using std::chrono::steady_clock;
  ThreadPool pool(GetParam());
  for (int round = 0; round < 100; ++round) {
    const auto until = steady_clock::now() + std::chrono::microseconds(300);
    while (steady_clock::now() < until) {
    }
    std::atomic<int64_t> sum{0};
    pool.ParallelFor(100, 1, [&](int64_t begin, int64_t end, int) {
      for (int64_t i = begin; i < end; ++i) sum += i;
    });
    ASSERT_EQ(sum, 4950);
  }
}

INSTANTIATE_TEST_SUITE_P(Threads, ThreadPoolTest, ::testing::Values(1, 2, 3, 8));

TEST(ThreadPoolLifeTest, EndsWithoutHavingRun) {
  for (int i = 0; i < 50; ++i) ThreadPool pool(4);
}

}  // namespace
}  // namespace conclave::kernels

#include "shared/base/bounded_queue.h"

#include <gtest/gtest.h>

#include <memory>
#include <thread>

namespace conclave {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

TEST(BoundedQueueTest, RefusesWhenFullAndLeavesTheItem) {
  BoundedQueue<std::unique_ptr<int>> queue(1);
  EXPECT_TRUE(queue.TryPush(std::make_unique<int>(1)));
  auto second = std::make_unique<int>(2);
  EXPECT_FALSE(queue.TryPush(std::move(second)));
  ASSERT_NE(second, nullptr);
  EXPECT_EQ(*second, 2);
  EXPECT_EQ(**queue.PopFor(seconds(0)), 1);
  EXPECT_TRUE(queue.TryPush(std::move(second)));
}

TEST(BoundedQueueTest, GivesWhatIsLeftAfterClosingThenNothing) {
  BoundedQueue<int> queue(4);
  queue.TryPush(1);
  queue.Close();
  EXPECT_FALSE(queue.TryPush(2));
  EXPECT_EQ(queue.PopFor(seconds(10)), 1);
  EXPECT_EQ(queue.PopFor(seconds(10)), std::nullopt);
}

TEST(BoundedQueueTest, TimesOutWhenEmpty) {
  BoundedQueue<int> queue(4);
  EXPECT_EQ(queue.PopFor(milliseconds(1)), std::nullopt);
  EXPECT_FALSE(queue.WaitNotEmpty(milliseconds(1)));
}

TEST(BoundedQueueTest, KeepsEachProducersOrder) {
  BoundedQueue<int> queue(8);
  constexpr int kItems = 2000;
  auto produce = [&](int sign) {
    for (int i = 1; i <= kItems; ++i) {
      while (!queue.TryPush(sign * i)) std::this_thread::yield();
    }
  };
  std::thread up(produce, 1), down(produce, -1);
  int last_up = 0, last_down = 0;
  for (int taken = 0; taken < 2 * kItems;) {
    for (const int item : queue.WaitNotEmpty(seconds(10)) ? queue.PopAll() : std::vector<int>()) {
      int& last = item > 0 ? last_up : last_down;
      EXPECT_EQ(std::abs(item), last + 1);
      last = std::abs(item);
      ++taken;
    }
  }
  up.join();
  down.join();
  EXPECT_EQ(queue.size(), 0u);
}

}  // namespace
}  // namespace conclave

#include "services/gateway/cache/response_cache.h"

#include <gtest/gtest.h>

#include <random>
#include <thread>

#include "services/gateway/cache/frequency_sketch.h"

namespace conclave::gateway {
namespace {

using std::chrono::seconds;

// A key whose bits are well mixed, as a digest's are.
CacheKey KeyOf(uint64_t number) {
  std::mt19937_64 bits(number);
  CacheKey key;
  for (uint8_t& byte : key) byte = static_cast<uint8_t>(bits());
  return key;
}

std::shared_ptr<const RecordedGeneration> AnswerOf(size_t text_bytes, uint64_t seed = 0) {
  auto answer = std::make_shared<RecordedGeneration>();
  answer->seed = seed;
  answer->choices.resize(1);
  answer->choices[0].text.assign(text_bytes, 'x');
  return answer;
}

TEST(FrequencySketchTest, CountsUpToFifteen) {
  FrequencySketch sketch(1000);
  EXPECT_EQ(sketch.Frequency(1), 0);
  for (int i = 1; i <= 20; ++i) {
    sketch.Count(1);
    EXPECT_EQ(sketch.Frequency(1), std::min(i, 15));
  }
}

TEST(FrequencySketchTest, SeldomSaysTooMuch) {
  FrequencySketch sketch(1000);
  std::mt19937_64 random(1);
  for (int i = 0; i < 1000; ++i) sketch.Count(random());
  int too_much = 0;
  for (int i = 0; i < 1000; ++i) too_much += sketch.Frequency(random()) > 0;
  EXPECT_LT(too_much, 20);
}

TEST(FrequencySketchTest, ForgetsWithTime) {
  FrequencySketch sketch(64);
  for (int i = 0; i < 15; ++i) sketch.Count(7);
  std::mt19937_64 random(2);
  for (int i = 0; i < 64 * 10 * 6; ++i) sketch.Count(random());
  EXPECT_LT(sketch.Frequency(7), 8);
}

class ResponseCacheTest : public testing::Test {
 protected:
  SimulatedClock clock_;
};

TEST_F(ResponseCacheTest, FindsWhatWasPut) {
  ResponseCache cache({}, &clock_);
  EXPECT_EQ(cache.Find(KeyOf(1)), nullptr);
  const auto answer = AnswerOf(10);
  cache.Put(KeyOf(1), answer);
  EXPECT_EQ(cache.Find(KeyOf(1)), answer);
  EXPECT_EQ(cache.Find(KeyOf(2)), nullptr);
  EXPECT_EQ(cache.counts().entries, 1);
}

TEST_F(ResponseCacheTest, ReplacesAnAnswer) {
  ResponseCache cache({}, &clock_);
  cache.Put(KeyOf(1), AnswerOf(1000));
  const int64_t bytes = cache.counts().bytes;
  const auto second = AnswerOf(10);
  cache.Put(KeyOf(1), second);
  EXPECT_EQ(cache.Find(KeyOf(1)), second);
  EXPECT_LT(cache.counts().bytes, bytes);
  EXPECT_EQ(cache.counts().entries, 1);
}

TEST_F(ResponseCacheTest, ForgetsAfterItsTime) {
  ResponseCache cache({.ttl = seconds(10)}, &clock_);
  cache.Put(KeyOf(1), AnswerOf(10));
  clock_.Advance(seconds(9));
  EXPECT_NE(cache.Find(KeyOf(1)), nullptr);
  clock_.Advance(seconds(1));
  EXPECT_EQ(cache.Find(KeyOf(1)), nullptr);
  EXPECT_EQ(cache.counts().entries, 0);
  EXPECT_EQ(cache.counts().expired, 1);
}

TEST_F(ResponseCacheTest, KeepsNothingWithoutRoom) {
  ResponseCache off({.capacity_bytes = 0}, &clock_);
  off.Put(KeyOf(1), AnswerOf(1));
  EXPECT_EQ(off.Find(KeyOf(1)), nullptr);
  ResponseCache small({.capacity_bytes = 10000, .num_parts = 1}, &clock_);
  small.Put(KeyOf(1), AnswerOf(20000));
  EXPECT_EQ(small.Find(KeyOf(1)), nullptr);
  EXPECT_EQ(small.counts().rejected, 1);
}

TEST_F(ResponseCacheTest, StaysWithinItsBytes) {
  constexpr size_t kCapacity = 100000;
  ResponseCache cache({.capacity_bytes = kCapacity, .num_parts = 2}, &clock_);
  std::mt19937_64 random(3);
  for (int i = 0; i < 5000; ++i) {
    const uint64_t number = random() % 300;
    if (!cache.Find(KeyOf(number))) cache.Put(KeyOf(number), AnswerOf(random() % 3000));
    ASSERT_LE(cache.counts().bytes, static_cast<int64_t>(kCapacity));
  }
  EXPECT_GT(cache.counts().bytes, static_cast<int64_t>(kCapacity) / 2);
  EXPECT_GT(cache.counts().evicted, 0);
}

TEST_F(ResponseCacheTest, AFloodOfSingleQuestionsDoesNotEmptyIt) {
  ResponseCache cache({.capacity_bytes = 200000, .num_parts = 1}, &clock_);
  constexpr uint64_t kHot = 50;
  for (int round = 0; round < 5; ++round) {
    for (uint64_t i = 0; i < kHot; ++i) {
      if (!cache.Find(KeyOf(i))) cache.Put(KeyOf(i), AnswerOf(1000));
    }
  }
  for (uint64_t i = 0; i < 500; ++i) {
    if (!cache.Find(KeyOf(1000 + i))) cache.Put(KeyOf(1000 + i), AnswerOf(1000));
  }
  uint64_t left = 0;
  for (uint64_t i = 0; i < kHot; ++i) left += cache.Find(KeyOf(i)) != nullptr;
  EXPECT_EQ(left, kHot);
}

TEST_F(ResponseCacheTest, LetsInWhatIsAskedForAgain) {
  ResponseCache cache({.capacity_bytes = 100000, .num_parts = 1}, &clock_);
  for (uint64_t i = 0; i < 200; ++i) cache.Put(KeyOf(i), AnswerOf(1000));  // full, never asked for
  for (int i = 0; i < 3; ++i) {
    if (!cache.Find(KeyOf(5000))) cache.Put(KeyOf(5000), AnswerOf(1000));
  }
  EXPECT_NE(cache.Find(KeyOf(5000)), nullptr);
}

TEST_F(ResponseCacheTest, ManyThreadsMayUseIt) {
  ResponseCache cache({.capacity_bytes = 50000, .num_parts = 4}, &clock_);
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 4; ++t) {
    threads.emplace_back([&cache, t] {
      std::mt19937_64 random(t);
      for (int i = 0; i < 2000; ++i) {
        const uint64_t number = random() % 100;
        if (const auto found = cache.Find(KeyOf(number))) {
          ASSERT_EQ(found->seed, number);
        } else {
          cache.Put(KeyOf(number), AnswerOf(random() % 1000, number));
        }
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_LE(cache.counts().bytes, 50000);
}

}  // namespace
}  // namespace conclave::gateway

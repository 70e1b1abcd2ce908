#include "services/cli/gateway_bench/load.h"

#include <gtest/gtest.h>

#include <atomic>
#include <chrono>
#include <mutex>
#include <vector>

namespace conclave::cli {
namespace {

using std::chrono::milliseconds;

// Keeps what it was asked to send.
struct Held {
  std::mutex mutex;
  std::vector<SentDone> asked;
  Sender sender() {
    return [this](SentDone done) {
      const std::lock_guard lock(mutex);
      asked.push_back(std::move(done));
    };
  }
};

TEST(LoadTest, ClosedLoopKeepsSoManyInFlight) {
  std::atomic<int64_t> sent{0};
  const LoadResult result =
      RunLoad({.in_flight = 3, .duration = milliseconds(50), .patience = milliseconds(1)},
              [&](SentDone done) {
                // A chain of answers that come at once would never return to the loop.
                if (++sent > 1000) return;
                done(absl::OkStatus());
              });
  EXPECT_EQ(result.sent, sent.load());
  EXPECT_EQ(result.answered, 1000);
  EXPECT_EQ(result.latencies.size(), 1000u);
}

TEST(LoadTest, CountsAsFailedWhatIsNotAnsweredInTime) {
  Held held;
  const LoadResult result = RunLoad(
      {.in_flight = 4, .duration = milliseconds(20), .patience = milliseconds(20)}, held.sender());
  EXPECT_EQ(result.sent, 4);
  EXPECT_EQ(result.failed, 4);
  EXPECT_EQ(result.first_error.code(), absl::StatusCode::kDeadlineExceeded);
  for (const SentDone& done : held.asked) done(absl::OkStatus());  // late: nothing happens
}

TEST(LoadTest, OpenLoopSendsWhateverBecameOfTheRequestsBefore) {
  Held held;
  const LoadResult result = RunLoad(
      {.rate = 1000, .duration = milliseconds(100), .patience = milliseconds(1)}, held.sender());
  // Those of a moment in which this process did not run are sent afterwards, or not at all at the
  // end.
  EXPECT_GT(result.sent, 10);
  EXPECT_LE(result.sent, 100);
  EXPECT_EQ(result.failed, result.sent);
}

TEST(LoadTest, AFailureIsKeptAndNotRepeated) {
  const LoadResult result =
      RunLoad({.in_flight = 2, .duration = milliseconds(50)},
              [](SentDone done) { done(absl::ResourceExhaustedError("full")); });
  EXPECT_EQ(result.sent, 2);
  EXPECT_EQ(result.failed, 2);
  EXPECT_EQ(result.first_error, absl::ResourceExhaustedError("full"));
}

TEST(LoadTest, EndsWhenInterrupted) {
  const std::atomic<bool> interrupted{true};
  Held held;
  const auto start = std::chrono::steady_clock::now();
  RunLoad({.in_flight = 1,
           .duration = std::chrono::hours(1),
           .patience = milliseconds(0),
           .interrupted = &interrupted},
          held.sender());
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(30));
}

}  // namespace
}  // namespace conclave::cli

#include "shared/h2/newcomers.h"

#include <gmock/gmock.h>

#include <deque>
#include <memory>
#include <vector>

namespace conclave::h2 {
namespace {

using std::chrono::milliseconds;
using ::testing::ElementsAre;

constexpr size_t kMuch = Newcomers::kFirstBytes;

TimePoint Now() { return std::chrono::steady_clock::now(); }

void Spend(Duration time) {
  const TimePoint end = Now() + time;
  while (Now() < end) continue;
}

class NewcomersTest : public ::testing::Test {
 protected:
  void Start(double share) { newcomers_ = std::make_unique<Newcomers>(&io_, &timers_, share); }
  Newcomers::Place& Await(size_t bytes_before, std::function<void()> turn) {
    places_.emplace_back(newcomers_.get());
    places_.back().Await(bytes_before, std::move(turn));
    return places_.back();
  }

  boost::asio::io_context io_;
  Timers timers_{&io_};
  std::unique_ptr<Newcomers> newcomers_;
  std::deque<Newcomers::Place> places_;
  std::vector<int> order_;
};

TEST_F(NewcomersTest, TurnsComeInTheirOrderAndNeverWithinTheCall) {
  Start(0.5);
  for (int i = 0; i < 6; ++i) {
    Await(0, [this, i] {
      order_.push_back(i);
      if (i == 0) places_[0].Await(1, [this] { order_.push_back(6); });
    });
  }
  EXPECT_THAT(order_, ElementsAre());
  io_.run();
  EXPECT_THAT(order_, ElementsAre(0, 1, 2, 3, 4, 5, 6));
}

TEST_F(NewcomersTest, FirstPiecesGoBeforeLaterOnesThreeTimesOfFour) {
  Start(1);
  for (int i = 0; i < 3; ++i) {
    Await(kMuch, [this, i] { order_.push_back(100 + i); });
  }
  for (int i = 0; i < 7; ++i) {
    Await(kMuch - 1, [this, i] { order_.push_back(i); });
  }
  io_.run();
  EXPECT_THAT(order_, ElementsAre(0, 1, 2, 100, 3, 4, 5, 101, 6, 102));
}

TEST_F(NewcomersTest, WhoLeavesHasNoTurn) {
  Start(0.5);
  Await(0, [this] {
    order_.push_back(0);
    places_[1].Leave();
  });
  Await(0, [this] { order_.push_back(1); });
  EXPECT_TRUE(Await(kMuch, [this] { order_.push_back(2); }).waits());
  places_.pop_back();  // is destroyed
  io_.run();
  EXPECT_THAT(order_, ElementsAre(0));
  EXPECT_FALSE(places_[1].waits());
}

TEST_F(NewcomersTest, TogetherTheyTakeTheirShareOfTheTime) {
  constexpr double kShare = 0.25;
  Start(kShare);
  const TimePoint began = Now();
  int turns = 0;
  constexpr int kTurns = 60;
  for (int i = 0; i < kTurns; ++i) {
    Await(0, [&] {
      Spend(milliseconds(1));
      ++turns;
      // What they have had by now: the burst, their share of the time, and this one turn.
      const auto elapsed = std::chrono::duration<double, std::milli>(Now() - began).count();
      EXPECT_LE(turns, 20 + elapsed * kShare + 2);
    });
  }
  io_.run();
  EXPECT_EQ(turns, kTurns);
}

TEST_F(NewcomersTest, OthersHaveTheirTurnBetween) {
  Start(1);
  int turns = 0;
  for (int i = 0; i < 100; ++i) Await(0, [&] { ++turns; });
  int turns_before = 100;
  boost::asio::post(io_, [&] { turns_before = turns; });
  io_.run();
  EXPECT_LT(turns_before, 10);
  EXPECT_EQ(turns, 100);
}

}  // namespace
}  // namespace conclave::h2

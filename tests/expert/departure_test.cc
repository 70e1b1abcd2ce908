#include "services/expert/departure.h"

#include <gtest/gtest.h>

namespace conclave::expert {
namespace {

using placement::Handover;
using std::chrono::milliseconds;
using std::chrono::seconds;

class DepartureTest : public testing::Test {
 protected:
  // What the worker sees after `time`.
  bool After(Duration time, const Departure::Observation& seen) {
    clock_.Advance(time);
    return departure_.MayLeave(seen, clock_.Now());
  }

  SimulatedClock clock_;
  Departure departure_{{}, clock_.Now()};
  Departure::Observation seen_{
      .connected = true, .handover = Handover::kMoving, .num_streams = 1, .num_frames = 7};
};

TEST_F(DepartureTest, StaysWhileTheExpertsMove) {
  EXPECT_FALSE(After(milliseconds(10), seen_));
  EXPECT_FALSE(After(seconds(100), seen_));
  seen_.handover = Handover::kDone;
  EXPECT_TRUE(After(milliseconds(10), seen_));
}

TEST_F(DepartureTest, StaysUntilTheControllerHasSpoken) {
  seen_.handover = Handover::kNone;
  EXPECT_FALSE(After(seconds(100), seen_));
}

// Whatever the controller says, or if it says nothing: nobody is served.
TEST_F(DepartureTest, GoesWhenNoEngineHasBeenConnectedForAWhile) {
  for (const Handover handover : {Handover::kNone, Handover::kMoving, Handover::kNoRoom}) {
    seen_.handover = handover;
    seen_.num_streams = 1;
    EXPECT_FALSE(After(seconds(3), seen_));
    seen_.num_streams = 0;  // an engine may be connecting again
    EXPECT_FALSE(After(milliseconds(900), seen_));
    EXPECT_TRUE(After(milliseconds(200), seen_));
  }
}

TEST_F(DepartureTest, StaysWhereTheOthersHaveNoRoom) {
  seen_.handover = Handover::kNoRoom;
  EXPECT_FALSE(After(seconds(100), seen_));
}

TEST_F(DepartureTest, WithoutATakerGoesWithTheLastEngine) {
  seen_.handover = Handover::kNoTaker;
  EXPECT_FALSE(After(milliseconds(10), seen_));
  seen_.num_streams = 0;
  EXPECT_TRUE(After(milliseconds(10), seen_));
}

TEST_F(DepartureTest, WithoutATakerServesWhileFramesCome) {
  seen_.handover = Handover::kNoTaker;
  for (int i = 0; i < 10; ++i) {
    ++seen_.num_frames;
    EXPECT_FALSE(After(milliseconds(900), seen_));
  }
  seen_.busy = true;
  EXPECT_FALSE(After(seconds(5), seen_));
  seen_.busy = false;
  EXPECT_FALSE(After(milliseconds(900), seen_));
  EXPECT_TRUE(After(milliseconds(200), seen_));
}

TEST_F(DepartureTest, ATakerThatComesIsWaitedFor) {
  seen_.handover = Handover::kNoTaker;
  EXPECT_FALSE(After(milliseconds(900), seen_));
  seen_.handover = Handover::kMoving;
  EXPECT_FALSE(After(seconds(5), seen_));
}

TEST_F(DepartureTest, WithoutAControllerGoesWhenNoEngineIsThere) {
  seen_.connected = false;
  seen_.num_streams = 0;
  EXPECT_TRUE(After(milliseconds(10), seen_));
}

TEST_F(DepartureTest, WithoutAControllerServesOnWhileAnEngineIsThere) {
  seen_.connected = false;
  EXPECT_FALSE(After(seconds(60), seen_));
  seen_.connected = true;
  EXPECT_FALSE(After(milliseconds(10), seen_));
  seen_.connected = false;
  EXPECT_FALSE(After(seconds(60), seen_));
  seen_.num_streams = 0;
  EXPECT_TRUE(After(milliseconds(10), seen_));
}

}  // namespace
}  // namespace conclave::expert

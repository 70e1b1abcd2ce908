// Workers that drain, under a simulated clock.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>

#include "services/controller/cluster.h"
#include "tests/controller/cluster_fixture.h"

namespace conclave::controller {
namespace {

using placement::Handover;
using testing::HasSubstr;

class ClusterHandoverTest : public ClusterTest {
 protected:
  // Engine and workers, experts shared and loaded, all acknowledged.
  void Start(const std::vector<Report*>& workers) {
    Send(engine_);
    std::vector<Report*> all = workers;
    all.push_back(&engine_);
    for (const Report* worker : workers) Send(*worker);
    Pass(milliseconds(400), all);
    for (Report* worker : workers) Obey(*worker);
    Acknowledge();
  }
  void Acknowledge() {
    engine_.seen_epoch = cluster_.topology().epoch;
    Send(engine_);
  }
  void Drain(Report& worker) {
    worker.status.state = MemberState::kDraining;
    Send(worker);
  }
  void Leave(Report& worker) {
    worker.leaving = true;
    Send(worker);
    cluster_.OnDisconnected(worker.name, worker.incarnation);
  }
  bool HasEvent(const std::string& member, const std::string& text) const {
    const std::vector<ClusterEvent> events = cluster_.events(0);
    return std::any_of(events.begin(), events.end(), [&](const ClusterEvent& event) {
      return event.member == member && event.text.find(text) != std::string::npos;
    });
  }

  Report third_ = MakeReport("expert-2", MemberKind::kExpert);
};

TEST_F(ClusterHandoverTest, ADrainingWorkerServesUntilTheOthersHaveLoadedAndTheEngineKnows) {
  Start({&first_, &second_});
  EXPECT_EQ(cluster_.HandoverOf("expert-0"), Handover::kNone);
  Drain(first_);
  EXPECT_EQ(cluster_.HandoverOf("expert-0"), Handover::kMoving);
  Pass(milliseconds(400), {&engine_, &first_, &second_});
  // Planned onto the other one, which has not loaded: the first serves on.
  EXPECT_EQ(Hold("expert-1").size(), 8u);
  EXPECT_EQ(Serve("expert-0").size(), 4u);
  EXPECT_EQ(cluster_.HandoverOf("expert-0"), Handover::kMoving);
  Obey(second_);
  EXPECT_EQ(Serve("expert-1").size(), 8u);
  EXPECT_TRUE(Serve("expert-0").empty());
  // Frames sent by the topology before may still come.
  EXPECT_EQ(Hold("expert-0").size(), 4u);
  EXPECT_EQ(cluster_.HandoverOf("expert-0"), Handover::kMoving);
  Acknowledge();
  EXPECT_TRUE(Hold("expert-0").empty());
  EXPECT_EQ(cluster_.HandoverOf("expert-0"), Handover::kDone);
  EXPECT_TRUE(HasEvent("expert-0", "may end"));
  Leave(first_);
  EXPECT_TRUE(Model().Missing().empty());
  EXPECT_EQ(cluster_.events(1)[0].text, "left");
}

TEST_F(ClusterHandoverTest, EveryEngineMustKnow) {
  Report late = MakeReport("engine-1", MemberKind::kEngine);
  Send(late);
  Start({&first_, &second_});
  late.seen_epoch = cluster_.topology().epoch;
  Send(late);
  Drain(first_);
  Pass(milliseconds(400), {&engine_, &late, &first_, &second_});
  Obey(second_);
  Acknowledge();
  EXPECT_EQ(cluster_.HandoverOf("expert-0"), Handover::kMoving);
  EXPECT_EQ(Hold("expert-0").size(), 4u);
  // The engine that does not answer loses its lease.
  Pass(milliseconds(2100), {&engine_, &first_, &second_});
  EXPECT_EQ(cluster_.HandoverOf("expert-0"), Handover::kDone);
}

TEST_F(ClusterHandoverTest, TwoThatDrainAtOnceGiveNothingToEachOther) {
  Start({&first_, &second_, &third_});
  Drain(first_);
  Drain(second_);
  Pass(milliseconds(400), {&engine_, &first_, &second_, &third_});
  EXPECT_EQ(Hold("expert-2").size(), 8u);
  EXPECT_LE(Hold("expert-0").size(), 3u);
  EXPECT_LE(Hold("expert-1").size(), 3u);
  Obey(third_);
  Acknowledge();
  EXPECT_EQ(cluster_.HandoverOf("expert-0"), Handover::kDone);
  EXPECT_EQ(cluster_.HandoverOf("expert-1"), Handover::kDone);
}

TEST_F(ClusterHandoverTest, ASecondDrainWhileTheFirstMovesIsPlannedAnew) {
  Start({&first_, &second_, &third_});
  Drain(first_);
  Pass(milliseconds(400), {&engine_, &first_, &second_, &third_});
  Drain(second_);  // before it has loaded any of the first one's
  Pass(milliseconds(400), {&engine_, &first_, &second_, &third_});
  EXPECT_EQ(Hold("expert-2").size(), 8u);
  Obey(third_);
  Acknowledge();
  EXPECT_EQ(cluster_.HandoverOf("expert-0"), Handover::kDone);
  EXPECT_EQ(cluster_.HandoverOf("expert-1"), Handover::kDone);
  EXPECT_TRUE(Model().Missing().empty());
}

TEST_F(ClusterHandoverTest, WhenAllDrainNobodyWaitsForTheOthers) {
  Start({&first_, &second_});
  Drain(first_);
  Drain(second_);
  EXPECT_EQ(cluster_.HandoverOf("expert-0"), Handover::kNoTaker);
  EXPECT_EQ(cluster_.HandoverOf("expert-1"), Handover::kNoTaker);
  Pass(seconds(1), {&engine_, &first_, &second_});
  EXPECT_EQ(Serve("expert-0").size(), 4u);
  EXPECT_EQ(Serve("expert-1").size(), 4u);
  Leave(first_);
  Pass(seconds(12), {&engine_, &second_});
  EXPECT_EQ(Serve("expert-1").size(), 4u);
  // One that comes takes all, and the one that drains is free.
  Send(third_);
  Pass(milliseconds(400), {&engine_, &second_, &third_});
  EXPECT_EQ(cluster_.HandoverOf("expert-1"), Handover::kMoving);
  EXPECT_EQ(Hold("expert-2").size(), 8u);
  Obey(third_);
  Acknowledge();
  EXPECT_EQ(cluster_.HandoverOf("expert-1"), Handover::kDone);
}

TEST_F(ClusterHandoverTest, WithoutEnginesNobodyIsNeeded) {
  Start({&first_, &second_});
  Leave(engine_);
  Drain(first_);
  EXPECT_EQ(cluster_.HandoverOf("expert-0"), Handover::kDone);
  EXPECT_FALSE(HasEvent("expert-0", "may end"));
}

TEST_F(ClusterHandoverTest, TooLittleRoomIsToldAndTheWorkerServesOn) {
  second_.status.capacity_bytes = 600;
  Start({&first_, &second_});
  Drain(first_);
  Pass(milliseconds(400), {&engine_, &first_, &second_});
  Obey(second_);
  Acknowledge();
  EXPECT_EQ(Serve("expert-1").size(), 6u);
  EXPECT_EQ(Serve("expert-0").size(), 2u);
  EXPECT_TRUE(Model().Missing().empty());
  EXPECT_EQ(cluster_.HandoverOf("expert-0"), Handover::kNoRoom);
  EXPECT_TRUE(HasEvent("expert-0", "2 of its experts fit on no other worker"));
  EXPECT_TRUE(HasEvent("expert-0", "--memory"));
  // Told once.
  const size_t events = cluster_.events(0).size();
  Pass(seconds(3), {&engine_, &first_, &second_});
  EXPECT_EQ(cluster_.events(0).size(), events);
  // Another worker has room.
  Send(third_);
  Pass(milliseconds(400), {&engine_, &first_, &second_, &third_});
  Obey(third_);
  Obey(second_);
  Acknowledge();
  EXPECT_EQ(cluster_.HandoverOf("expert-0"), Handover::kDone);
}

TEST_F(ClusterHandoverTest, AWorkerThatIsLostForAMomentIsNoTaker) {
  Start({&first_, &second_});
  Pass(milliseconds(2100), {&engine_, &first_});
  Drain(first_);
  EXPECT_EQ(cluster_.HandoverOf("expert-0"), Handover::kNoTaker);
  Pass(milliseconds(400), {&engine_, &first_});
  EXPECT_EQ(Serve("expert-0").size(), 4u);
  // It comes back with what it had.
  second_.incarnation = "another";
  second_.status.holds.clear();
  Send(second_);
  Pass(milliseconds(400), {&engine_, &first_, &second_});
  EXPECT_EQ(Hold("expert-1").size(), 8u);
}

TEST_F(ClusterHandoverTest, NobodyWaitsForAWorkerThatSaidThatItGoes) {
  Start({&first_, &second_});
  Leave(first_);
  EXPECT_TRUE(HasEvent("expert-0", "left; 4 experts are without a worker"));
  Pass(milliseconds(400), {&engine_, &second_});
  EXPECT_EQ(Hold("expert-1").size(), 8u);
}

TEST_F(ClusterHandoverTest, ANameComesBackAtOnceAsANewMember) {
  Start({&first_, &second_});
  Drain(first_);
  Pass(milliseconds(400), {&engine_, &first_, &second_});
  Obey(second_);
  Acknowledge();
  Leave(first_);
  Report again = MakeReport("expert-0", MemberKind::kExpert);
  again.incarnation = "expert-0-second";
  again.address = "127.0.0.1:2";
  Send(again);
  EXPECT_EQ(cluster_.HandoverOf("expert-0"), Handover::kNone);
  Pass(milliseconds(400), {&engine_, &again, &second_});
  EXPECT_EQ(Hold("expert-0").size(), 4u);
  EXPECT_EQ(Model().FindWorker("expert-0")->address, "127.0.0.1:2");
  Obey(again);
  EXPECT_EQ(Serve("expert-0").size(), 4u);
  EXPECT_TRUE(Model().Missing().empty());
}

// An expert that goes, comes back and goes again before the engine has said anything.
TEST_F(ClusterHandoverTest, WhatGoesTwiceStaysUntilTheSecondIsKnown) {
  Start({&first_});
  Send(second_);
  Pass(milliseconds(400), {&engine_, &first_, &second_});
  Obey(second_);  // 4 go from the first to the second
  const placement::Epoch gone_once = cluster_.topology().epoch;
  Drain(second_);  // and back: the first has them still
  Pass(milliseconds(400), {&engine_, &first_, &second_});
  Obey(first_);
  ASSERT_EQ(Serve("expert-0").size(), 8u);
  Send(third_);  // and away again
  Pass(milliseconds(400), {&engine_, &first_, &second_, &third_});
  Obey(third_);
  ASSERT_EQ(Serve("expert-2").size(), 4u);
  engine_.seen_epoch = gone_once;
  Send(engine_);
  EXPECT_EQ(Hold("expert-0").size(), 8u);
  Acknowledge();
  EXPECT_EQ(Hold("expert-0").size(), 4u);
}

// What a worker has been told to release counts no more, whatever an older report says, until it
// has applied a topology that wants it again.
TEST_F(ClusterHandoverTest, WhatIsBeingReleasedIsNotServed) {
  Start({&first_});
  Send(second_);
  Pass(milliseconds(400), {&engine_, &first_, &second_});
  Obey(second_);
  Acknowledge();
  ASSERT_EQ(Hold("expert-0").size(), 4u);  // it releases the rest now, and has not reported since
  ASSERT_EQ(first_.status.holds.size(), 8u);
  Drain(second_);
  Pass(milliseconds(400), {&engine_, &first_, &second_});
  EXPECT_EQ(Hold("expert-0").size(), 8u);
  EXPECT_EQ(Serve("expert-0").size(), 4u);
  EXPECT_EQ(Serve("expert-1").size(), 4u);
  // It had released two of the four when it applied that.
  const ExpertKeys all = Hold("expert-0");
  const ExpertKeys gone = {*Serve("expert-1").begin(), *Serve("expert-1").rbegin()};
  first_.seen_epoch = cluster_.topology().epoch;
  for (const placement::ExpertKey& key : gone) first_.status.holds.erase(key);
  Send(first_);
  EXPECT_EQ(Serve("expert-0").size(), 6u);
  EXPECT_EQ(Serve("expert-1"), gone);
  Obey(first_);
  EXPECT_EQ(Serve("expert-0"), all);
  Acknowledge();
  EXPECT_EQ(cluster_.HandoverOf("expert-1"), Handover::kDone);
}

TEST_F(ClusterHandoverTest, WhatAWorkerWasToldToReleaseIsForgottenWhenItIsGone) {
  Start({&first_});
  Send(second_);
  Pass(milliseconds(400), {&engine_, &first_, &second_});
  Obey(second_);
  Acknowledge();
  ASSERT_EQ(cluster_.num_let_go(), 4u);  // the first one has not reported since
  Pass(seconds(2), {&engine_, &second_});
  EXPECT_EQ(cluster_.num_let_go(), 4u);
  Pass(seconds(70), {&engine_, &second_});
  ASSERT_EQ(cluster_.members().size(), 2u);
  EXPECT_EQ(cluster_.num_let_go(), 0u);
}

TEST_F(ClusterHandoverTest, WhatAWorkerWasToldToReleaseIsForgottenWhenItsNameServesAnotherModel) {
  Start({&first_});
  Send(second_);
  Pass(milliseconds(400), {&engine_, &first_, &second_});
  Obey(second_);
  Acknowledge();
  ASSERT_EQ(cluster_.num_let_go(), 4u);
  cluster_.OnDisconnected("expert-0", first_.incarnation);
  Report again = MakeReport("expert-0", MemberKind::kExpert);
  again.incarnation = "expert-0-second";
  again.status.model->fingerprint = std::string(64, 'b');
  Send(again);
  EXPECT_EQ(cluster_.num_let_go(), 0u);
}

// One that drains releases nothing: should who took over die, it serves again.
TEST_F(ClusterHandoverTest, AWorkerThatHasHandedOverServesAgainWhenTheTakerDies) {
  Start({&first_, &second_});
  Drain(first_);
  Pass(milliseconds(400), {&engine_, &first_, &second_});
  Obey(second_);
  Acknowledge();
  ASSERT_EQ(cluster_.HandoverOf("expert-0"), Handover::kDone);
  second_.incarnation = "another";
  second_.status.holds.clear();
  cluster_.OnDisconnected("expert-1", "expert-1-first");
  Send(second_);
  EXPECT_EQ(Serve("expert-0").size(), 4u);
  EXPECT_EQ(cluster_.HandoverOf("expert-0"), Handover::kMoving);
}

TEST_F(ClusterHandoverTest, ARestartedControllerGoesOnWithADrain) {
  Start({&first_, &second_});
  const placement::Topology last = cluster_.topology();
  Drain(first_);
  Cluster next(Cluster::Options{}, /*term=*/2, &clock_);
  first_.last_topology = second_.last_topology = engine_.last_topology = last;
  first_.highest_term = second_.highest_term = engine_.highest_term = 1;
  for (Report* report : {&engine_, &first_, &second_}) {
    ASSERT_TRUE(next.OnReport(*report).ok());
    report->last_topology.reset();
    report->highest_term = 2;
  }
  EXPECT_EQ(next.HandoverOf("expert-0"), Handover::kMoving);
  for (int i = 0; i < 60; ++i) {
    clock_.Advance(milliseconds(50));
    for (Report* report : {&engine_, &first_, &second_}) {
      report->seen_epoch = next.topology().epoch;
      ASSERT_TRUE(next.OnReport(*report).ok());
    }
    next.Tick();
    second_.status.holds = next.topology().models.at(0).FindWorker("expert-1")->hold;
  }
  EXPECT_EQ(next.HandoverOf("expert-0"), Handover::kDone);
}

}  // namespace
}  // namespace conclave::controller

#include "services/controller/cluster.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "tests/controller/cluster_fixture.h"

namespace conclave::controller {
namespace {

using placement::Epoch;

TEST_F(ClusterTest, WorkersStartedTogetherShareTheExperts) {
  Send(first_);
  clock_.Advance(milliseconds(100));
  Send(second_);
  Pass(milliseconds(400), {&first_, &second_});
  EXPECT_EQ(Hold("expert-0").size(), 4u);
  EXPECT_EQ(Hold("expert-1").size(), 4u);
  EXPECT_TRUE(Serve("expert-0").empty());
  EXPECT_EQ(Model().Missing().size(), 8u);
  Obey(first_);
  Obey(second_);
  EXPECT_EQ(Serve("expert-0"), Hold("expert-0"));
  EXPECT_TRUE(Model().Missing().empty());
}

// Members that name the term which this very controller told them.
TEST_F(ClusterTest, AFirstPlacementWaitsForNoLease) {
  Send(first_);
  first_.highest_term = 1;
  Pass(milliseconds(400), {&first_});
  EXPECT_EQ(Hold("expert-0").size(), 8u);
}

TEST_F(ClusterTest, EpochGrowsOnlyWhenSomethingChanges) {
  Send(first_);
  Pass(milliseconds(400), {&first_});
  Obey(first_);
  const Epoch before = cluster_.topology().epoch;
  Pass(seconds(3), {&first_});
  EXPECT_EQ(cluster_.topology().epoch, before);
}

TEST_F(ClusterTest, MembersThatCallAModelDifferentlyDoNotTakeTurns) {
  first_.status.model->served_name = "another-name";
  Send(engine_);
  Send(first_);
  Pass(milliseconds(400), {&engine_, &first_});
  Obey(first_);
  const Epoch before = cluster_.topology().epoch;
  Pass(seconds(1), {&engine_, &first_});
  EXPECT_EQ(cluster_.topology().epoch, before);
  EXPECT_EQ(Model().model.served_name, "tales");
}

TEST_F(ClusterTest, AJoiningWorkerTakesOverWithoutAGap) {
  Send(engine_);
  Send(first_);
  Pass(milliseconds(400), {&engine_, &first_});
  Obey(first_);
  Send(second_);
  Pass(milliseconds(400), {&engine_, &first_, &second_});
  // Half of it is to move; until it is loaded there, the first worker serves all.
  EXPECT_EQ(Hold("expert-1").size(), 4u);
  EXPECT_EQ(Serve("expert-0").size(), 8u);
  EXPECT_TRUE(Model().Missing().empty());
  Obey(second_);
  EXPECT_EQ(Serve("expert-0").size(), 4u);
  EXPECT_EQ(Serve("expert-1").size(), 4u);
  EXPECT_TRUE(Model().Missing().empty());
  // The moved ones stay loaded until the engine knows.
  EXPECT_EQ(Hold("expert-0").size(), 8u);
  engine_.seen_epoch = cluster_.topology().epoch;
  Send(engine_);
  EXPECT_EQ(Hold("expert-0").size(), 4u);
}

TEST_F(ClusterTest, AnEngineThatIsGoneDelaysNoRelease) {
  Send(engine_);
  Send(first_);
  Pass(milliseconds(400), {&engine_, &first_});
  Obey(first_);
  Send(second_);
  Pass(milliseconds(400), {&engine_, &first_, &second_});
  Obey(second_);
  EXPECT_EQ(Hold("expert-0").size(), 8u);
  Pass(milliseconds(2100), {&first_, &second_});
  EXPECT_EQ(Hold("expert-0").size(), 4u);
}

TEST_F(ClusterTest, ALostWorkerKeepsItsExpertsForAWhile) {
  Send(first_);
  Send(second_);
  Pass(milliseconds(400), {&first_, &second_});
  Obey(first_);
  Obey(second_);
  Pass(milliseconds(2100), {&first_});
  EXPECT_FALSE(Model().FindWorker("expert-1")->live);
  EXPECT_EQ(Model().Missing().size(), 4u);
  EXPECT_EQ(Hold("expert-0").size(), 4u);
  EXPECT_EQ(cluster_.num_missing_experts(), 4u);
  // Back with empty hands: the same experts are its own again.
  second_.incarnation = "another";
  second_.status.holds.clear();
  Send(second_);
  EXPECT_EQ(Hold("expert-1").size(), 4u);
  Obey(second_);
  EXPECT_TRUE(Model().Missing().empty());
}

// Starved or stopped for longer than any lease: the reports of that time are still to be read.
TEST_F(ClusterTest, LeasesSurviveAControllerThatDidNotRun) {
  Send(engine_);
  Send(first_);
  Send(second_);
  Pass(milliseconds(400), {&engine_, &first_, &second_});
  Obey(first_);
  Obey(second_);
  EXPECT_EQ(cluster_.num_lease_expirations(MemberKind::kExpert), 0);
  Pass(milliseconds(2100), {&engine_, &first_});  // one is really lost before
  EXPECT_EQ(cluster_.num_lease_expirations(MemberKind::kExpert), 1);
  clock_.Advance(seconds(60));
  cluster_.Tick();
  for (const MemberRow& row : cluster_.members()) {
    EXPECT_EQ(row.live, row.report.name != "expert-1") << row.report.name;
  }
  EXPECT_EQ(Hold("expert-0").size(), 4u);  // nor is it time to take its experts away
  // From now on who is silent is judged again.
  Pass(milliseconds(2100), {&engine_});
  EXPECT_FALSE(Model().FindWorker("expert-0")->live);
}

TEST_F(ClusterTest, ManyShortPausesOfTheControllerEndNoLease) {
  Send(engine_);
  for (int i = 0; i < 10; ++i) {
    clock_.Advance(milliseconds(400));
    cluster_.Tick();
  }
  EXPECT_TRUE(cluster_.members().at(0).live);
}

TEST_F(ClusterTest, AWorkerGoneForLongLosesItsExperts) {
  Send(first_);
  Send(second_);
  Pass(milliseconds(400), {&first_, &second_});
  Obey(first_);
  Obey(second_);
  Pass(seconds(11), {&first_});
  EXPECT_EQ(Hold("expert-0").size(), 8u);
  Obey(first_);
  EXPECT_TRUE(Model().Missing().empty());
}

TEST_F(ClusterTest, TheExpertsOfAWorkerThatLeftMoveOnce) {
  Send(engine_);
  Send(first_);
  Send(second_);
  Pass(milliseconds(400), {&engine_, &first_, &second_});
  Obey(first_);
  Obey(second_);
  engine_.seen_epoch = cluster_.topology().epoch;
  Send(engine_);
  first_.leaving = true;
  Send(first_);
  Pass(seconds(11), {&engine_, &second_});
  EXPECT_EQ(Hold("expert-1").size(), 8u);
  const Epoch moved = cluster_.topology().epoch;
  Pass(seconds(1), {&engine_, &second_});
  EXPECT_EQ(cluster_.topology().epoch, moved);
  Obey(second_);
  EXPECT_TRUE(Model().Missing().empty());
}

TEST_F(ClusterTest, ANameInUseIsRefused) {
  Send(first_);
  Report intruder = first_;
  intruder.incarnation = "other";
  const absl::Status status = cluster_.OnReport(intruder);
  EXPECT_EQ(status.code(), absl::StatusCode::kAlreadyExists);
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("--name"));
  // Once the first one's stream broke, a restarted process takes the name.
  cluster_.OnDisconnected("expert-0", first_.incarnation);
  EXPECT_TRUE(cluster_.OnReport(intruder).ok());
}

TEST_F(ClusterTest, LeavingEndsTheLeaseAtOnce) {
  Send(engine_);
  EXPECT_EQ(cluster_.view().engines.size(), 1u);
  engine_.leaving = true;
  Send(engine_);
  EXPECT_TRUE(cluster_.view().engines.empty());
  EXPECT_EQ(cluster_.num_lease_expirations(MemberKind::kEngine), 0);
  EXPECT_FALSE(cluster_.members().at(0).live);
}

TEST_F(ClusterTest, TakesATermAboveTheMembers) {
  engine_.highest_term = 41;
  Send(engine_);
  EXPECT_EQ(cluster_.term(), 42u);
  EXPECT_EQ(cluster_.topology().epoch.term, 42u);
}

TEST_F(ClusterTest, TakesANewTermWhenItsOwnIsKnownWithALaterNumber) {
  engine_.highest_term = cluster_.term();
  engine_.seen_epoch = {cluster_.term(), 7};
  const uint64_t before = cluster_.term();
  Send(engine_);
  EXPECT_EQ(cluster_.term(), before + 1);
  EXPECT_GT(cluster_.topology().epoch, engine_.seen_epoch);
  engine_.seen_epoch = cluster_.topology().epoch;
  engine_.highest_term = cluster_.term();
  Send(engine_);
  EXPECT_EQ(cluster_.term(), before + 1);
}

TEST_F(ClusterTest, ARestartedControllerMovesNothing) {
  // Before: the second worker owns everything, which a fresh plan would not choose.
  placement::Topology last;
  last.epoch = {1, 5};
  ModelTopology& model = last.models.emplace_back();
  model.model = MakeModel();
  model.workers.push_back({"expert-1",
                           "127.0.0.1:1",
                           "",
                           {},
                           true,
                           model.model.AllExperts(),
                           model.model.AllExperts()});
  engine_.last_topology = last;
  engine_.highest_term = 1;
  Send(engine_);
  engine_.last_topology.reset();
  Send(first_);
  Pass(milliseconds(900), {&engine_, &first_});
  EXPECT_TRUE(Hold("expert-0").empty());
  second_.status.holds = MakeModel().AllExperts();
  Send(second_);
  Pass(milliseconds(900), {&engine_, &first_, &second_});
  EXPECT_EQ(Serve("expert-1").size(), 8u);
  EXPECT_TRUE(Hold("expert-0").empty());
  // After a lease time it balances.
  Pass(milliseconds(600), {&engine_, &first_, &second_});
  EXPECT_EQ(Hold("expert-0").size(), 4u);
  EXPECT_EQ(Serve("expert-1").size(), 8u);
}

TEST_F(ClusterTest, ModelsAreToldApartByFingerprint) {
  Report other = second_;
  other.status.model->fingerprint = std::string(64, 'b');
  Send(first_);
  Send(other);
  Pass(milliseconds(400), {&first_, &other});
  ASSERT_EQ(cluster_.topology().models.size(), 2u);
  EXPECT_EQ(cluster_.topology().models[0].workers.size(), 1u);
  EXPECT_EQ(cluster_.topology().models[1].workers.size(), 1u);
}

TEST_F(ClusterTest, AWorkerOfAnotherCheckpointIsTold) {
  Send(engine_);
  Send(first_);
  EXPECT_THAT(cluster_.events(1)[0].text, testing::HasSubstr("ready"));
  second_.status.model->fingerprint = std::string(64, 'b');
  Send(second_);
  const std::vector<ClusterEvent> events = cluster_.events(0);
  EXPECT_TRUE(std::any_of(events.begin(), events.end(), [](const ClusterEvent& event) {
    return event.member == "expert-1" && event.text.find("bbbbbbbbbbbb") != std::string::npos &&
           event.text.find("aaaaaaaaaaaa") != std::string::npos;
  }));
  EXPECT_THAT(cluster_.WhyIdle("expert-1"),
              testing::HasSubstr("engine-0 serves fingerprint aaaaaaaaaaaa (bf16)"));
  EXPECT_EQ(cluster_.WhyIdle("expert-0"), "");
  EXPECT_EQ(cluster_.WhyIdle("engine-0"), "");
  EXPECT_EQ(cluster_.WhyIdle("expert-9"), "");
}

TEST_F(ClusterTest, AWorkerThatCameBeforeTheEngineIsToldOnce) {
  Send(first_);
  EXPECT_EQ(cluster_.WhyIdle("expert-0"), "");
  engine_.status.model->fingerprint = std::string(64, 'b');
  Send(engine_);
  EXPECT_THAT(cluster_.WhyIdle("expert-0"), testing::HasSubstr("engine-0"));
  EXPECT_THAT(cluster_.events(1)[0].text, testing::HasSubstr("gets no work"));
  const uint64_t told = cluster_.num_events();
  Pass(seconds(1), {&engine_, &first_});
  EXPECT_EQ(cluster_.num_events(), told);
  // An engine of its own ends it.
  Report other = MakeReport("engine-1", MemberKind::kEngine);
  Send(other);
  EXPECT_EQ(cluster_.WhyIdle("expert-0"), "");
}

TEST_F(ClusterTest, AWorkerOfAModelThatNoEngineServesGetsNoWorkAndIsNotMissed) {
  Send(engine_);
  Send(first_);
  second_.status.model->fingerprint = std::string(64, 'b');
  Send(second_);
  Pass(milliseconds(400), {&engine_, &first_, &second_});
  Obey(first_);
  ASSERT_EQ(cluster_.topology().models.size(), 1u);
  EXPECT_EQ(cluster_.topology().models[0].model.fingerprint, std::string(64, 'a'));
  EXPECT_EQ(cluster_.num_missing_experts(), 0u);
  second_.leaving = true;
  Send(second_);
  Pass(seconds(70), {&engine_, &first_});
  EXPECT_EQ(cluster_.num_missing_experts(), 0u);
  EXPECT_EQ(cluster_.members().size(), 2u);
}

TEST_F(ClusterTest, AWorkerGetsWorkOnceAnEngineServesItsModel) {
  Send(engine_);
  second_.status.model->fingerprint = std::string(64, 'b');
  Send(second_);
  Pass(milliseconds(400), {&engine_, &second_});
  EXPECT_TRUE(cluster_.topology().models.empty());
  Report other_engine = engine_;
  other_engine.name = "engine-1";
  other_engine.status.model->fingerprint = std::string(64, 'b');
  Send(other_engine);
  Pass(milliseconds(400), {&engine_, &other_engine, &second_});
  ASSERT_EQ(cluster_.topology().models.size(), 1u);
  EXPECT_EQ(Hold("expert-1").size(), 8u);
  Obey(second_);
  // An engine that restarts takes no work away.
  Pass(seconds(20), {&engine_, &second_});
  EXPECT_EQ(Serve("expert-1").size(), 8u);
}

TEST_F(ClusterTest, ExpertsThatFitNowhereAreTold) {
  first_.status.capacity_bytes = 300;
  Send(first_);
  Pass(milliseconds(400), {&first_});
  EXPECT_EQ(Hold("expert-0").size(), 3u);
  EXPECT_THAT(cluster_.events(0).back().text, testing::HasSubstr("--memory"));
}

TEST_F(ClusterTest, AHoldingTheModelDoesNotHaveIsRefused) {
  first_.status.holds = {{0, 0}};  // a dense layer
  EXPECT_EQ(cluster_.OnReport(first_).code(), absl::StatusCode::kInvalidArgument);
  EXPECT_TRUE(cluster_.members().empty());
}

TEST_F(ClusterTest, AMemberThatIsNoLongerReadySaysWhy) {
  Report gateway = MakeReport("gateway", MemberKind::kGateway);
  Send(gateway);
  gateway.status.state = MemberState::kLoading;
  gateway.status.note = "no live worker has layer 1 expert 3";
  Send(gateway);
  EXPECT_EQ(cluster_.events(1)[0].text, "not ready: no live worker has layer 1 expert 3");
  gateway.status.state = MemberState::kReady;
  gateway.status.note.clear();
  Send(gateway);
  EXPECT_EQ(cluster_.events(1)[0].text, "ready");
  gateway.status.state = MemberState::kLoading;
  Send(gateway);
  EXPECT_EQ(cluster_.events(1)[0].text, "not ready");
}

TEST_F(ClusterTest, AMemberThatStartsIsNotToldAsNotReady) {
  engine_.status.state = MemberState::kLoading;
  engine_.status.note = "loading 41 %";
  Send(engine_);
  for (const ClusterEvent& event : cluster_.events(0)) {
    EXPECT_EQ(event.text.find("not ready"), std::string::npos) << event.text;
  }
}

TEST_F(ClusterTest, EventsAreBoundedAndOrdered) {
  for (int i = 0; i < 2000; ++i) {
    engine_.status.state = i % 2 == 0 ? MemberState::kReady : MemberState::kLoading;
    Send(engine_);
  }
  EXPECT_EQ(cluster_.events(0).size(), 1000u);
  EXPECT_EQ(cluster_.events(3).size(), 3u);
}

}  // namespace
}  // namespace conclave::controller

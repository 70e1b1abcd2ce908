#include "services/cli/ps.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/cli/table.h"

namespace conclave::cli {
namespace {

using ::testing::HasSubstr;

MemberInfo Worker(const std::string& name, std::vector<std::pair<int32_t, int32_t>> holds) {
  MemberInfo member;
  member.name = name;
  member.kind = "expert";
  member.state = "ready";
  member.live = true;
  member.fingerprint = "f";
  member.served_name = "tales";
  member.num_moe_layers = 1;
  member.num_experts = 2;
  member.holds = std::move(holds);
  return member;
}

TEST(ReplicaNoteTest, CountsTheFewestReplicas) {
  ClusterMembers members;
  EXPECT_THAT(ReplicaNote(members, true), HasSubstr("has opened a model"));
  members.members = {Worker("expert-0", {{0, 0}}), Worker("expert-1", {{0, 1}})};
  EXPECT_EQ(ReplicaNote(members, true),
            "1 replica: a worker's death fails requests until it restarts");
  EXPECT_THAT(ReplicaNote(members, false), HasSubstr("until others have taken its experts"));
  members.members.push_back(Worker("expert-2", {{0, 0}, {0, 1}}));
  EXPECT_THAT(ReplicaNote(members, true), HasSubstr("2 live replicas"));
  members.members[1].live = false;
  members.members[2].live = false;
  EXPECT_THAT(ReplicaNote(members, true), HasSubstr("1 of 2 experts of tales have no live worker"));
}

TEST(ReplicaNoteTest, KnowsEnginesThatHoldTheirExperts) {
  ClusterMembers members;
  MemberInfo engine = Worker("engine-0", {});
  engine.kind = "engine";
  members.members = {engine};
  EXPECT_THAT(ReplicaNote(members, true), HasSubstr("inside the engines"));
}

TEST(ReplicaNoteTest, NobodyMissesAWorkerOfAModelThatNoEngineServes) {
  ClusterMembers members;
  MemberInfo engine = Worker("engine-0", {});
  engine.kind = "engine";
  MemberInfo foreign = Worker("expert-9", {});
  foreign.fingerprint = "another";
  members.members = {engine, Worker("expert-0", {{0, 0}, {0, 1}}), foreign};
  for (const bool live : {true, false}) {
    members.members[2].live = live;
    EXPECT_THAT(ReplicaNote(members, true), HasSubstr("1 replica"));
  }
  members.members.erase(members.members.begin() + 1);
  EXPECT_THAT(ReplicaNote(members, true), HasSubstr("inside the engines"));
}

TEST(JoinProcessesTest, ShowsLocalProcessesAndMembersElsewhere) {
  ClusterMembers members;
  members.term = 3;
  members.number = 2;
  MemberInfo engine = Worker("engine-0", {});
  engine.kind = "engine";
  engine.numerics_class = "bf16";
  engine.context_tokens = 2048;
  engine.running = 1;
  engine.kv_used_ratio = 0.25;
  engine.pid = 40;
  members.members = {Worker("expert-9", {{0, 0}}), engine};
  const std::vector<ProcessState> processes = {{.name = "controller",
                                                .kind = "controller",
                                                .pid = 39,
                                                .address = "",
                                                .ops_address = "",
                                                .log = "",
                                                .last_end = ""},
                                               {.name = "engine-0",
                                                .kind = "engine",
                                                .pid = 40,
                                                .address = "",
                                                .ops_address = "",
                                                .log = "",
                                                .last_end = ""},
                                               {.name = "gateway",
                                                .kind = "gateway",
                                                .address = "",
                                                .ops_address = "",
                                                .log = "",
                                                .restart_at_unix_ms = UnixMs() + 60'000,
                                                .last_end = "ended by SIGKILL"}};
  const std::vector<ProcessRow> rows = JoinProcesses(processes, members, true);
  ASSERT_EQ(rows.size(), 4u);
  EXPECT_EQ(rows[0].name, "controller");
  EXPECT_EQ(rows[0].holds, "epoch 3.2");
  EXPECT_EQ(rows[0].load, "2 members");
  EXPECT_EQ(rows[1].name, "gateway");
  EXPECT_THAT(rows[1].state, HasSubstr("restarts in"));
  EXPECT_EQ(rows[2].holds, "tales bf16, context 2048");
  EXPECT_EQ(rows[2].load, "1 running, 0 waiting, KV 25 %");
  EXPECT_EQ(rows[3].name, "expert-9");
  EXPECT_EQ(rows[3].holds, "1 of 2 experts");
}

TEST(JoinProcessesTest, ALongReasonHasAWordForTheTable) {
  ClusterMembers members;
  MemberInfo gateway = Worker("gateway", {});
  gateway.kind = "gateway";
  gateway.state = "not ready";
  gateway.note = "engine-0 reaches no live worker that has layers 1-4 experts 0-15";
  MemberInfo loading = Worker("expert-0", {});
  loading.state = "loading";
  loading.note = "loading 41 %";
  members.members = {gateway, loading};
  const std::vector<ProcessRow> rows = JoinProcesses({}, members, true);
  EXPECT_EQ(rows[0].state, gateway.note);
  EXPECT_EQ(rows[0].short_state, "not ready");
  EXPECT_EQ(rows[1].state, "loading 41 %");
  EXPECT_EQ(rows[1].short_state, "");
}

TEST(WithoutEndedTest, AMemberWhoseProcessEndedIsNotLive) {
  ClusterMembers members;
  members.members = {Worker("expert-0", {{0, 0}}), Worker("expert-1", {{0, 1}})};
  members.members[0].pid = 8;
  members.members[1].pid = 9;
  ProcessState ended;
  ended.name = "expert-0";
  const ClusterMembers left = WithoutEnded(members, {ended});
  EXPECT_FALSE(left.members[0].live);
  EXPECT_TRUE(left.members[1].live) << "of another machine";
  EXPECT_THAT(ReplicaNote(left, true), HasSubstr("1 of 2 experts of tales have no live worker"));
}

TEST(JoinProcessesTest, AMemberOfAnEarlierPidIsNotTheProcess) {
  ClusterMembers members;
  MemberInfo old = Worker("expert-0", {{0, 0}});
  old.pid = 7;
  members.members = {old};
  const std::vector<ProcessState> processes = {{.name = "expert-0",
                                                .kind = "expert",
                                                .pid = 8,
                                                .address = "",
                                                .ops_address = "",
                                                .log = "",
                                                .last_end = ""}};
  EXPECT_EQ(JoinProcesses(processes, members, true)[0].state, "starting");
  EXPECT_EQ(JoinProcesses(processes, {}, false)[0].state, "unknown");
}

TEST(FormatTableTest, AlignsByCharactersAndNotByBytes) {
  EXPECT_EQ(FormatTable({{"A", "B"}, {"äöü", "x"}, {"yyyy", "z"}}), "A     B\näöü   x\nyyyy  z\n");
  EXPECT_EQ(FormatTable({}), "");
}

TEST(FormatSecondsTest, RoundsAsPeopleDo) {
  EXPECT_EQ(FormatSeconds(0.2), "0.2 s");
  EXPECT_EQ(FormatSeconds(12.4), "12 s");
  EXPECT_EQ(FormatSeconds(598), "9 min 58 s");
}

TEST(FormatMomentTest, HasTheDateOfAnotherDay) {
  constexpr int64_t kNow = 1'795'362'842'088;
  EXPECT_EQ(FormatMoment(kNow, kNow).size(), std::string("12:04:31.402").size());
  EXPECT_THAT(FormatMoment(kNow - 72 * 3'600'000, kNow),
              ::testing::MatchesRegex("2026-11-[0-9]+ [0-9:]+\\.088"));
}

TEST(SignalNameTest, KnowsNames) { EXPECT_EQ(SignalName(9), "SIGKILL"); }

}  // namespace
}  // namespace conclave::cli

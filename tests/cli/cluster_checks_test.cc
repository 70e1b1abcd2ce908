#include "services/cli/cluster_checks.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "services/cli/gateway_checks.h"

namespace conclave::cli {
namespace {

using ::testing::HasSubstr;

constexpr int64_t kDay = 24 * 3600;

MemberInfo Member(const std::string& name, const std::string& kind) {
  MemberInfo member;
  member.name = name;
  member.kind = kind;
  member.state = "ready";
  member.live = true;
  member.version = "0.1.0+abc";
  if (kind != "gateway") {
    member.fingerprint = std::string(64, 'a');
    member.served_name = "tales";
    member.num_moe_layers = 2;
    member.num_experts = 2;
  }
  return member;
}

// A gateway, an engine, and two workers with half of the experts each.
ClusterMembers Whole() {
  ClusterMembers members{3, 7, {}};
  members.members = {Member("engine-0", "engine"), Member("expert-0", "expert"),
                     Member("expert-1", "expert"), Member("gateway", "gateway")};
  members.members[1].holds = {{1, 0}, {2, 0}};
  members.members[2].holds = {{1, 1}, {2, 1}};
  return members;
}

Check Find(const ClusterMembers& members, const std::string& name) {
  for (const Check& check : CheckMembers(members)) {
    if (check.name == name) return check;
  }
  ADD_FAILURE() << "no check " << name;
  return {};
}

TEST(CheckMembersTest, AWholeClusterIsGood) {
  for (const Check& check : CheckMembers(Whole())) {
    EXPECT_EQ(check.verdict, Verdict::kOk) << check.name << ": " << check.found;
    EXPECT_TRUE(check.remedy.empty()) << check.name;
  }
  EXPECT_EQ(Find(Whole(), "members").found, "1 gateway, 1 engine, 2 experts ready, epoch 3.7");
  EXPECT_EQ(Find(Whole(), "experts").found, "tales: 4 of 4 held by live workers");
}

TEST(CheckMembersTest, ExpertsOfALostWorkerAreMissed) {
  ClusterMembers members = Whole();
  members.members[2].live = false;
  members.members[2].state = "lost";
  EXPECT_EQ(Find(members, "members").verdict, Verdict::kWarn);
  EXPECT_THAT(Find(members, "members").found, HasSubstr("expert-1 is lost"));
  EXPECT_EQ(Find(members, "experts").verdict, Verdict::kFail);
  EXPECT_THAT(Find(members, "experts").found, HasSubstr("2 of 4"));
  // Another one has them as well.
  members.members[1].holds = {{1, 0}, {1, 1}, {2, 0}, {2, 1}};
  EXPECT_EQ(Find(members, "experts").verdict, Verdict::kOk);
}

TEST(CheckMembersTest, WhoHasLeftIsNotMissed) {
  ClusterMembers members = Whole();
  members.members[1].holds = {{1, 0}, {1, 1}, {2, 0}, {2, 1}};
  members.members[2].live = false;
  members.members[2].state = "left";
  for (const Check& check : CheckMembers(members)) {
    EXPECT_EQ(check.verdict, Verdict::kOk) << check.name << ": " << check.found;
  }
}

TEST(CheckMembersTest, WithoutAGatewayOrAnEngineNothingWorks) {
  ClusterMembers members = Whole();
  members.members[3].state = "not ready";
  members.members[3].note = "no engine";
  EXPECT_EQ(Find(members, "members").verdict, Verdict::kFail);
  EXPECT_THAT(Find(members, "members").found, HasSubstr("gateway is not ready: no engine"));
  members = Whole();
  members.members.erase(members.members.begin());
  EXPECT_EQ(Find(members, "members").verdict, Verdict::kFail);
  EXPECT_EQ(Find(members, "experts").verdict, Verdict::kFail);
  EXPECT_EQ(Find({1, 0, {}}, "members").verdict, Verdict::kFail);
}

TEST(CheckMembersTest, OtherVersionsAndWeightsAreNamed) {
  ClusterMembers members = Whole();
  members.members[1].version = "0.2.0+def";
  members.members[2].fingerprint = std::string(64, 'b');
  EXPECT_EQ(Find(members, "versions").verdict, Verdict::kWarn);
  EXPECT_THAT(Find(members, "versions").found, HasSubstr("0.2.0+def (expert-0)"));
  EXPECT_EQ(Find(members, "models").verdict, Verdict::kWarn);
  EXPECT_THAT(Find(members, "models").found, HasSubstr("tales bbbbbbbbbbbb (expert-1)"));
  // What the other one holds is of no use to the engine.
  EXPECT_EQ(Find(members, "experts").verdict, Verdict::kFail);
}

TEST(CheckMembersTest, EnginesThatHoldTheExpertsThemselvesAreNoFailure) {
  ClusterMembers members = Whole();
  members.members.erase(members.members.begin() + 1, members.members.begin() + 3);
  EXPECT_EQ(Find(members, "experts").verdict, Verdict::kWarn);
  EXPECT_THAT(Find(members, "experts").found, HasSubstr("no live worker"));
}

TEST(CheckMembersTest, EveryModelNeedsAReadyEngine) {
  ClusterMembers members = Whole();
  members.members[0].state = "loading";
  members.members.push_back(Member("engine-1", "engine"));
  members.members.back().fingerprint = std::string(64, 'b');
  members.members.back().served_name = "poems";
  EXPECT_EQ(Find(members, "experts").verdict, Verdict::kFail);
  EXPECT_EQ(Find(members, "experts").found,
            "tales: no engine is ready, 4 of 4 held by live workers; poems: no live worker");
  EXPECT_EQ(Find(members, "experts").remedy, "wait, or see the engines' logs");
  members.members[0].fingerprint.clear();
  EXPECT_THAT(Find(members, "experts").found, HasSubstr("tales: workers, but no engine"));
}

TEST(CheckExpiryTest, WarnsTwoWeeksBeforeAndFailsInTheLastHour) {
  const auto check = [](int64_t now_unix_s) {
    return CheckExpiry("certificate", "it", 100 * kDay, now_unix_s);
  };
  EXPECT_EQ(check(10 * kDay).verdict, Verdict::kOk);
  EXPECT_EQ(check(10 * kDay).found, "it: 90 days left");
  EXPECT_EQ(check(87 * kDay).verdict, Verdict::kWarn);
  EXPECT_EQ(check(99 * kDay).verdict, Verdict::kWarn);
  EXPECT_EQ(check(99 * kDay).found, "it: 24 hours left");
  EXPECT_EQ(check(100 * kDay - 3599).verdict, Verdict::kFail);
  EXPECT_EQ(check(200 * kDay).verdict, Verdict::kFail);
  EXPECT_EQ(check(200 * kDay).found, "it: expired");
}

TEST(CheckClockTest, WarnsWhenTheClocksAreApart) {
  EXPECT_EQ(CheckClock(1000, 1005).verdict, Verdict::kOk);
  EXPECT_EQ(CheckClock(1000, 1006).found, "the gateway's is 6 seconds behind the one here");
  EXPECT_EQ(CheckClock(1060, 1000).found, "the gateway's is 60 seconds ahead of the one here");
  EXPECT_EQ(CheckClock(1060, 1000).verdict, Verdict::kWarn);
}

}  // namespace
}  // namespace conclave::cli

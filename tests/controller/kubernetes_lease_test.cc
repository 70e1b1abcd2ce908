#include "services/controller/kubernetes_lease.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <optional>

#include "tests/controller/lease_server.h"
#include "tests/support/temp_dir.h"

namespace conclave::controller {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;
using ::testing::HasSubstr;

constexpr char kName[] = "conclave-controller";

class KubernetesLeaseTest : public ::testing::Test {
 protected:
  KubernetesApi ApiTo(const std::string& port) const {
    return KubernetesApi(KubernetesApi::Options{
        .host = "127.0.0.1", .port = port, .service_account = account_, .timeout = seconds(5)});
  }
  KubernetesLease LeaseOf(const std::string& identity) {
    return KubernetesLease({.name = kName, .name_space = "here", .identity = identity}, &api_,
                           &clock_);
  }
  static KubernetesLease::Standing Get(KubernetesLease& lease, uint64_t least_term = 0) {
    const auto standing = lease.TakeOrRenew(least_term);
    EXPECT_TRUE(standing.ok()) << standing.status();
    return standing.value_or(KubernetesLease::Standing{});
  }

  testing::TempDir dir_;
  const std::string account_ = dir_.path() / "account";
  testing::Authority authority_;
  LeaseServer server_{account_, authority_};
  const KubernetesApi api_ = ApiTo(server_.port());
  SimulatedClock clock_;
  KubernetesLease first_ = LeaseOf("pod-a"), second_ = LeaseOf("pod-b");
};

TEST_F(KubernetesLeaseTest, MakesTheLeaseAndHoldsIt) {
  const KubernetesLease::Standing standing = Get(first_, 6);
  EXPECT_TRUE(standing.held);
  EXPECT_EQ(standing.term, 7u);
  EXPECT_TRUE(first_.held());
  EXPECT_EQ(server_.holder(kName), "pod-a");
  EXPECT_EQ(server_.transitions(kName), 7u);
  EXPECT_EQ(server_.lease(kName)["spec"]["leaseDurationSeconds"], 10);
}

TEST_F(KubernetesLeaseTest, ASecondOneWaitsAndSaysForWhom) {
  Get(first_);
  const KubernetesLease::Standing standing = Get(second_);
  EXPECT_FALSE(standing.held);
  EXPECT_THAT(standing.waits_for, HasSubstr("here/conclave-controller"));
  EXPECT_THAT(standing.waits_for, HasSubstr("held by pod-a"));
  EXPECT_FALSE(second_.held());
  EXPECT_EQ(server_.num_writes(), 1);
}

TEST_F(KubernetesLeaseTest, ARenewalKeepsTheTermAndRemembersAHigherOne) {
  const uint64_t term = Get(first_).term;
  clock_.Advance(seconds(5));
  EXPECT_EQ(Get(first_).term, term);
  EXPECT_TRUE(first_.held());
  // Members had seen a higher one.
  EXPECT_EQ(Get(first_, term + 40).term, term + 40);
  EXPECT_EQ(server_.transitions(kName), term + 40);
}

TEST_F(KubernetesLeaseTest, OneThatRanOutIsTakenWithAHigherTerm) {
  const uint64_t term = Get(first_).term;
  EXPECT_FALSE(Get(second_).held);
  clock_.Advance(seconds(9));
  EXPECT_FALSE(Get(second_).held);
  EXPECT_FALSE(first_.held());  // it knows by itself, and before the others
  clock_.Advance(seconds(2));
  const KubernetesLease::Standing standing = Get(second_);
  EXPECT_TRUE(standing.held);
  EXPECT_EQ(standing.term, term + 1);
  EXPECT_FALSE(Get(first_).held);
  EXPECT_EQ(server_.holder(kName), "pod-b");
}

TEST_F(KubernetesLeaseTest, OneThatIsRenewedNeverRunsOut) {
  Get(first_);
  for (int i = 0; i < 20; ++i) {
    clock_.Advance(seconds(4));
    EXPECT_TRUE(Get(first_).held);
    EXPECT_FALSE(Get(second_).held);
  }
}

TEST_F(KubernetesLeaseTest, AHoldersClockDoesNotMatter) {
  // Its renewTime lies years away: only that it changes counts.
  server_.Take(kName, "pod-z", 3);
  EXPECT_FALSE(Get(first_).held);
  clock_.Advance(seconds(11));
  EXPECT_TRUE(Get(first_).held);
  EXPECT_EQ(server_.transitions(kName), 4u);
}

TEST_F(KubernetesLeaseTest, OneThatIsGivenUpIsTakenAtOnce) {
  const uint64_t term = Get(first_).term;
  EXPECT_FALSE(Get(second_).held);
  ASSERT_TRUE(first_.Release().ok());
  EXPECT_FALSE(first_.held());
  EXPECT_EQ(server_.holder(kName), "");
  EXPECT_GT(Get(second_).term, term);
  EXPECT_TRUE(second_.held());
  // Nothing of others is given up.
  ASSERT_TRUE(first_.Release().ok());
  EXPECT_EQ(server_.holder(kName), "pod-b");
}

TEST_F(KubernetesLeaseTest, AContainerStartedAgainTakesItBackAtOnce) {
  const uint64_t term = Get(first_).term;
  KubernetesLease again = LeaseOf("pod-a");
  EXPECT_EQ(Get(again).term, term + 1);
}

TEST_F(KubernetesLeaseTest, OfTwoThatTakeItAtOnceOneGetsIt) {
  server_.Take(kName, "", 5);
  server_.BeforeNextWrite([&] { server_.Take(kName, "pod-b", 6); });
  const KubernetesLease::Standing standing = Get(first_);
  EXPECT_FALSE(standing.held);
  EXPECT_EQ(server_.holder(kName), "pod-b");
  EXPECT_THAT(Get(first_).waits_for, HasSubstr("pod-b"));
}

TEST_F(KubernetesLeaseTest, OfTwoThatMakeItAtOnceOneGetsIt) {
  server_.BeforeNextWrite([&] { server_.Take(kName, "pod-b", 1); });
  EXPECT_FALSE(Get(first_).held);
  EXPECT_EQ(server_.holder(kName), "pod-b");
}

TEST_F(KubernetesLeaseTest, OneThatIsTakenAwayIsLost) {
  Get(first_);
  server_.Take(kName, "pod-b", 8);
  EXPECT_FALSE(Get(first_).held);
  EXPECT_FALSE(first_.held());
}

TEST_F(KubernetesLeaseTest, AHolderWhoseLeaseIsDeletedMakesItAgain) {
  const uint64_t term = Get(first_).term;
  server_.Delete(kName);
  EXPECT_EQ(Get(first_, term).term, term);
  EXPECT_EQ(server_.transitions(kName), term);
}

TEST_F(KubernetesLeaseTest, WhatOthersWroteIntoItStays) {
  server_.Set(kName, {{"metadata", {{"name", kName}, {"labels", {{"app", "conclave"}}}}},
                      {"spec", {{"strategy", "OldestEmulationVersion"}}}});
  EXPECT_TRUE(Get(first_).held);
  EXPECT_EQ(server_.lease(kName)["metadata"]["labels"]["app"], "conclave");
  EXPECT_EQ(server_.lease(kName)["spec"]["strategy"], "OldestEmulationVersion");
  EXPECT_TRUE(server_.lease(kName)["spec"].contains("renewTime"));
  EXPECT_TRUE(server_.lease(kName)["spec"].contains("acquireTime"));
}

TEST_F(KubernetesLeaseTest, AnApiServerThatIsAwayCostsTheLeaseOnlyWhenItRunsOut) {
  Get(first_);
  server_.SetAway(true);
  clock_.Advance(seconds(4));
  EXPECT_TRUE(absl::IsUnavailable(first_.TakeOrRenew(0).status()));
  EXPECT_TRUE(first_.held());
  clock_.Advance(seconds(5));
  EXPECT_FALSE(first_.held());
  server_.SetAway(false);
  EXPECT_TRUE(Get(first_).held);
}

TEST_F(KubernetesLeaseTest, AMissingRightIsNamed) {
  server_.RefuseWrites(403);
  const absl::Status refused = first_.TakeOrRenew(0).status();
  EXPECT_TRUE(absl::IsPermissionDenied(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("create it (403: leases is forbidden)"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("Role with get, create and update"));
}

TEST_F(KubernetesLeaseTest, ATokenThatIsRenewedIsReadAgain) {
  Get(first_);
  server_.SetToken("second");
  EXPECT_TRUE(Get(first_).held);
  std::ofstream(std::filesystem::path(account_) / "token") << "wrong";
  EXPECT_TRUE(absl::IsPermissionDenied(first_.TakeOrRenew(0).status()));
}

TEST_F(KubernetesLeaseTest, AServerOfAnotherAuthorityIsNotTrusted) {
  testing::Authority other;
  LeaseServer impostor(dir_.path() / "other", other);
  const KubernetesApi api = ApiTo(impostor.port());
  KubernetesLease lease({.name = kName, .name_space = "here", .identity = "pod-a"}, &api, &clock_);
  const absl::Status status = lease.TakeOrRenew(0).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("is not trusted by " + account_));
  EXPECT_EQ(impostor.num_writes(), 0);
}

TEST_F(KubernetesLeaseTest, AnExpiredCertificateIsNotTrusted) {
  LeaseServer late(dir_.path() / "late", authority_, /*valid_seconds=*/-60);
  const auto answer = ApiTo(late.port()).Call("GET", LeaseServer::kCollection);
  EXPECT_TRUE(absl::IsFailedPrecondition(answer.status())) << answer.status();
  EXPECT_THAT(std::string(answer.status().message()), HasSubstr("certificate"));
}

TEST_F(KubernetesLeaseTest, AServerThatSaysNothingIsGivenUp) {
  boost::asio::io_context io;
  boost::asio::ip::tcp::acceptor silent(io, {boost::asio::ip::make_address("127.0.0.1"), 0});
  const KubernetesApi api(
      KubernetesApi::Options{.host = "127.0.0.1",
                             .port = std::to_string(silent.local_endpoint().port()),
                             .service_account = account_,
                             .timeout = milliseconds(100)});
  const auto answer = api.Call("GET", "/");
  EXPECT_TRUE(absl::IsUnavailable(answer.status())) << answer.status();
}

TEST_F(KubernetesLeaseTest, AMissingServiceAccountIsNamed) {
  const KubernetesApi api(KubernetesApi::Options{.host = "127.0.0.1",
                                                 .port = server_.port(),
                                                 .service_account = dir_.path() / "nothing",
                                                 .timeout = seconds(5)});
  for (const absl::Status& status : {api.Call("GET", "/").status(), api.Namespace().status()}) {
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("nothing/"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("automountServiceAccountToken"));
  }
  std::ofstream(std::filesystem::path(account_) / "ca.crt") << "no certificate";
  const absl::Status status = api_.Call("GET", "/").status();
  EXPECT_THAT(std::string(status.message()), HasSubstr("ca.crt holds no certificate"));
}

TEST_F(KubernetesLeaseTest, ALeaseOfOddFieldsIsAFreeOne) {
  server_.Set(kName, {{"metadata", {{"name", kName}}}, {"spec", 7}});
  EXPECT_TRUE(Get(first_).held);
  server_.Set(kName, {{"metadata", {{"name", kName}}},
                      {"spec", {{"holderIdentity", 7}, {"leaseTransitions", -5}}}});
  EXPECT_EQ(Get(second_).term, 1u);
}

TEST_F(KubernetesLeaseTest, AnAnswerThatIsNoObjectIsAnError) {
  server_.Set(kName, nlohmann::json::array({1, 2}));
  EXPECT_TRUE(absl::IsUnavailable(first_.TakeOrRenew(0).status()));
}

}  // namespace
}  // namespace conclave::controller

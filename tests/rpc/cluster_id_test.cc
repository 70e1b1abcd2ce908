#include "shared/rpc/cluster_id.h"

#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "shared/rpc/channel.h"
#include "shared/rpc/server.h"
#include "shared/rpc/status.h"
#include "tests/rpc/probe_service.h"

namespace conclave::rpc {
namespace {

using ::testing::HasSubstr;

// A call from a process of one cluster to one of another, as the called one judges it.
absl::Status CallBetween(const std::string& caller, const std::string& called) {
  ProbeService service({}, std::make_shared<ClusterId>(called));
  grpc::Service* const services[] = {&service};
  const auto server = Server::Start({.name = "probe", .listen = "127.0.0.1:0"}, services);
  EXPECT_TRUE(server.ok()) << server.status();
  const Channel channel(
      {.address = (*server)->address(), .cluster = std::make_shared<ClusterId>(caller)});
  grpc::ClientContext context;
  channel.Prepare(&context, std::chrono::milliseconds(20'000));
  return FromGrpc(CallTokenize(channel.grpc(), &context, "hello"));
}

TEST(ClusterIdTest, ACallInsideTheClusterPasses) {
  EXPECT_EQ(CallBetween("east", "east"), absl::OkStatus());
}

TEST(ClusterIdTest, ACallFromAnotherClusterNamesBoth) {
  const absl::Status status = CallBetween("east", "west");
  EXPECT_TRUE(IsOtherCluster(status)) << status;
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("east"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--cluster-id west"));
  const ErrorDetails details = DetailsOf(status);
  EXPECT_EQ(details.metadata.at("found"), "east");
  EXPECT_EQ(details.metadata.at("wanted"), "west");
}

TEST(ClusterIdTest, WhoDoesNotKnowItsClusterYetIsNotRefused) {
  EXPECT_EQ(CallBetween("", "west"), absl::OkStatus());
  EXPECT_EQ(CallBetween("east", ""), absl::OkStatus());
}

TEST(ClusterIdTest, TheFirstIdIsLearnedAndKept) {
  ClusterId id;
  EXPECT_EQ(id.value(), "");
  EXPECT_EQ(id.Learn("", "a controller"), absl::OkStatus());
  EXPECT_EQ(id.value(), "");
  EXPECT_EQ(id.Learn("east", "a controller"), absl::OkStatus());
  EXPECT_EQ(id.Learn("east", "a controller"), absl::OkStatus());
  const absl::Status other = id.Learn("west", "the controller at 127.0.0.1:1");
  EXPECT_TRUE(IsOtherCluster(other)) << other;
  EXPECT_THAT(std::string(other.message()), HasSubstr("the controller at 127.0.0.1:1"));
  EXPECT_EQ(id.value(), "east");
}

TEST(ClusterIdTest, WhatCannotTravelIsNoId) {
  ClusterId id;
  for (const std::string& bad : {std::string("a b"), std::string("a\n"), std::string(64, 'a')}) {
    EXPECT_TRUE(absl::IsInvalidArgument(id.Learn(bad, "a file"))) << bad;
  }
  EXPECT_EQ(id.value(), "");
}

TEST(ClusterIdTest, OtherErrorsAreNotOfAnotherCluster) {
  EXPECT_FALSE(IsOtherCluster(absl::OkStatus()));
  EXPECT_FALSE(IsOtherCluster(absl::FailedPreconditionError("something else")));
}

TEST(ClusterIdTest, DrawnIdsDifferAndAreIds) {
  const std::string first = DrawClusterId();
  EXPECT_EQ(first.size(), 16u);
  EXPECT_NE(first, DrawClusterId());
  EXPECT_EQ(ClusterId().Learn(first, "here"), absl::OkStatus());
}

}  // namespace
}  // namespace conclave::rpc

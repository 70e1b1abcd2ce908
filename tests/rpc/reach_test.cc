#include "shared/rpc/reach.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace conclave::rpc {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

absl::Status Check(const std::string& listen, bool guarded) {
  const net::ListenOptions options = {.name = "probe", .listen = listen, .setting = "--listen"};
  const auto address = net::ParseListen(options);
  EXPECT_TRUE(address.ok()) << address.status();
  return CheckReach(options, *address, guarded);
}

TEST(ReachTest, WhatOnlyThisHostReachesNeedsNoGuard) {
  for (const char* listen :
       {"127.0.0.1:80", "127.1.2.3:80", "[::1]:80", "localhost:80", "unix:/run/socket"}) {
    EXPECT_TRUE(Check(listen, /*guarded=*/false).ok()) << listen;
  }
}

TEST(ReachTest, WhatOtherHostsReachNeedsAGuard) {
  for (const char* listen : {"0.0.0.0:80", "[::]:80", "192.0.2.1:80", "some.host:80"}) {
    const absl::Status refused = Check(listen, /*guarded=*/false);
    EXPECT_EQ(refused.code(), absl::StatusCode::kFailedPrecondition) << listen;
    EXPECT_THAT(std::string(refused.message()),
                AllOf(HasSubstr(std::string("probe would listen on ") + listen),
                      HasSubstr("cluster_secret_file"), HasSubstr("--insecure")));
    EXPECT_TRUE(Check(listen, /*guarded=*/true).ok()) << listen;
  }
}

}  // namespace
}  // namespace conclave::rpc

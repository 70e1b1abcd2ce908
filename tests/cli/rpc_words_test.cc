#include "services/cli/rpc_words.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace conclave::cli {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

std::string Words(const absl::Status& status) {
  return std::string(InWords(status, "gateway", "127.0.0.1:8001", "/state").message());
}

TEST(RpcWordsTest, SaysThatNobodyIsThere) {
  const absl::Status refused = absl::UnavailableError(
      "failed to connect to all addresses; last error: UNKNOWN: ipv4:127.0.0.1:8001: Failed to "
      "connect to remote host: Connection refused");
  EXPECT_THAT(Words(refused), HasSubstr("no gateway answers gRPC at 127.0.0.1:8001 (Connection "
                                        "refused)"));
  EXPECT_TRUE(absl::IsUnavailable(InWords(refused, "gateway", "x", "/state")));
  EXPECT_THAT(
      Words(absl::UnavailableError("failed to connect to all addresses; last error: INTERNAL: "
                                   "ipv4:127.0.0.1:8001: Trying to connect an http1.x server")),
      HasSubstr("(it is an HTTP port)"));
  const std::string unknown = Words(
      absl::UnavailableError("DNS resolution failed for x:1: C-ares status is not ARES_SUCCESS"));
  EXPECT_THAT(unknown, HasSubstr("is not known"));
  EXPECT_THAT(unknown, Not(HasSubstr("ares")));
  EXPECT_THAT(Words(absl::UnimplementedError("")), HasSubstr("is no gateway"));
  EXPECT_THAT(Words(absl::UnavailableError("Socket closed")),
              HasSubstr("the connection to the gateway at 127.0.0.1:8001 broke"));
}

TEST(RpcWordsTest, LeavesWhatAServiceSaid) {
  for (const absl::Status& status :
       {absl::OkStatus(), absl::UnavailableError("layer 1 expert 3 has no live worker"),
        absl::UnavailableError("the connection to engine-0 was lost: Socket closed"),
        absl::UnimplementedError("tools are not served yet"), absl::NotFoundError("x")}) {
    EXPECT_EQ(InWords(status, "gateway", "x", "/state"), status);
  }
}

}  // namespace
}  // namespace conclave::cli

#include "shared/rpc/advertise.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave::rpc {
namespace {

constexpr char kController[] = "127.0.0.1:8010";

TEST(AdvertiseTest, ANumericAddressIsItself) {
  EXPECT_EQ(*AdvertisedAddress("127.0.0.1:8030", "", kController), "127.0.0.1:8030");
  EXPECT_EQ(*AdvertisedAddress("[::1]:8030", "", kController), "[::1]:8030");
  EXPECT_EQ(*AdvertisedAddress("unix:/run/expert.sock", "", kController), "unix:/run/expert.sock");
}

TEST(AdvertiseTest, TheUsersHostComesFirst) {
  EXPECT_EQ(*AdvertisedAddress("0.0.0.0:8030", "worker.example", kController),
            "worker.example:8030");
  EXPECT_EQ(*AdvertisedAddress("127.0.0.1:8030", "::1", kController), "[::1]:8030");
}

TEST(AdvertiseTest, AWildcardBecomesTheAddressThatLeadsToTheController) {
  EXPECT_EQ(*AdvertisedAddress("0.0.0.0:8030", "", kController), "127.0.0.1:8030");
  EXPECT_EQ(*AdvertisedAddress("[::]:8030", "", kController), "127.0.0.1:8030");
}

TEST(AdvertiseTest, AWildcardWithoutAWayToTheControllerTellsToSetTheHost) {
  const auto address = AdvertisedAddress("0.0.0.0:8030", "", "no-such-host.invalid:8010");
  EXPECT_EQ(address.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(address.status().message()), ::testing::HasSubstr("set advertise"));
  EXPECT_FALSE(AdvertisedAddress("0.0.0.0:8030", "", "nonsense").ok());
}

}  // namespace
}  // namespace conclave::rpc

#include "shared/rpc/host_greeting.h"

#include <cstring>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace conclave::rpc {
namespace {

using ::testing::HasSubstr;

HostOffer Offer() {
  return {.cluster = "c-1",
          .secret = "token",
          .worker = "expert-0",
          .request_ring_bytes = 4 << 20,
          .result_ring_bytes = 32 << 20};
}

template <typename T>
void Put(std::vector<std::byte>& message, size_t at, T value) {
  std::memcpy(&message[at], &value, sizeof(T));
}

std::string OfferError(const std::vector<std::byte>& message) {
  const auto parsed = ParseOffer(message);
  EXPECT_EQ(parsed.status().code(), absl::StatusCode::kInvalidArgument);
  return std::string(parsed.status().message());
}

TEST(HostGreetingTest, OffersComeAsTheyWent) {
  const auto parsed = ParseOffer(EncodeOffer(Offer()));
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(parsed->cluster, "c-1");
  EXPECT_EQ(parsed->secret, "token");
  EXPECT_EQ(parsed->worker, "expert-0");
  EXPECT_EQ(parsed->request_ring_bytes, 4u << 20);
  EXPECT_EQ(parsed->result_ring_bytes, 32u << 20);
}

TEST(HostGreetingTest, AnswersComeAsTheyWent) {
  for (const absl::Status& status :
       {absl::OkStatus(), absl::FailedPreconditionError("another cluster")}) {
    const auto parsed = ParseAnswer(EncodeAnswer({status}));
    ASSERT_TRUE(parsed.ok()) << parsed.status();
    EXPECT_EQ(parsed->status, status);
  }
}

// docs/wire-format.md, field by field.
TEST(HostGreetingTest, LieWhereTheFormatSays) {
  const std::vector<std::byte> offer = EncodeOffer(Offer());
  const auto at = [&](size_t offset, size_t bytes) {
    uint64_t value = 0;
    std::memcpy(&value, &offer[offset], bytes);
    return value;
  };
  EXPECT_EQ(std::memcmp(offer.data(), "CNHL", 4), 0);
  EXPECT_EQ(at(4, 2), 1u);
  EXPECT_EQ(at(6, 2), 3u);
  EXPECT_EQ(at(8, 2), 8u);
  EXPECT_EQ(at(10, 2), 5u);
  EXPECT_EQ(at(12, 4), 0u);
  EXPECT_EQ(at(16, 8), 4u << 20);
  EXPECT_EQ(at(24, 8), 32u << 20);
  EXPECT_EQ(std::memcmp(&offer[32], "c-1expert-0token", 16), 0);
  EXPECT_EQ(offer.size(), 48u);
}

TEST(HostGreetingTest, WrongFieldsAreNamed) {
  const std::vector<std::byte> good = EncodeOffer(Offer());
  auto bad = good;
  Put<uint32_t>(bad, 0, 7);
  EXPECT_THAT(OfferError(bad), HasSubstr("magic is 7"));
  bad = good;
  Put<uint16_t>(bad, 4, 2);
  EXPECT_THAT(OfferError(bad), HasSubstr("version is 2, wanted 1"));
  for (const size_t length_at : {6, 8, 10}) {
    bad = good;
    Put<uint16_t>(bad, length_at, 0xffff);
    EXPECT_THAT(OfferError(bad), HasSubstr("length is 48"));
  }
  for (const uint64_t ring : {uint64_t{0}, uint64_t{4} << 10, (uint64_t{4} << 20) + 1,
                              uint64_t{257} << 20, ~uint64_t{0}}) {
    bad = good;
    Put<uint64_t>(bad, 16, ring);
    EXPECT_THAT(OfferError(bad), HasSubstr("request ring is"));
    bad = good;
    Put<uint64_t>(bad, 24, ring);
    EXPECT_THAT(OfferError(bad), HasSubstr("result ring is"));
  }
}

TEST(HostGreetingTest, EveryTruncationAndEveryMoreIsAnError) {
  auto message = EncodeOffer(Offer());
  for (size_t bytes = 0; bytes < message.size(); ++bytes)
    OfferError({message.begin(), message.begin() + static_cast<std::ptrdiff_t>(bytes)});
  message.push_back(std::byte{0});
  OfferError(message);
  auto answer = EncodeAnswer({absl::InternalError("broken")});
  for (size_t bytes = 0; bytes < answer.size(); ++bytes) {
    EXPECT_FALSE(ParseAnswer(std::span(answer).first(bytes)).ok()) << bytes;
  }
  Put<uint16_t>(answer, 6, 17);
  EXPECT_FALSE(ParseAnswer(answer).ok());
}

TEST(HostGreetingTest, RandomDamageIsAnErrorOrAnotherOffer) {
  std::mt19937 random(3);
  const auto good = EncodeOffer(Offer());
  for (int i = 0; i < 20'000; ++i) {
    auto bad = good;
    for (int flips = 0; flips < 3; ++flips)
      bad[random() % bad.size()] ^= static_cast<std::byte>(1u << (random() % 8));
    const auto parsed = ParseOffer(bad);
    if (!parsed.ok()) continue;
    EXPECT_GE(parsed->request_ring_bytes, kLeastRingBytes);
    EXPECT_LE(parsed->result_ring_bytes, kMostRingBytes);
    EXPECT_EQ(parsed->cluster.size() + parsed->worker.size() + parsed->secret.size(), 16u);
  }
}

}  // namespace
}  // namespace conclave::rpc

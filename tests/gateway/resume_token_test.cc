#include "services/gateway/resume_token.h"

#include <gtest/gtest.h>

namespace conclave::gateway {
namespace {

ResumeClaims Claims() {
  return {.tenant = "alice",
          .definition_hash = std::string(32, 'd'),
          .seed = 0xFEDCBA9876543210,
          .fingerprint = std::string(64, 'f'),
          .text_version = std::string(64, 't'),
          .expires_unix_s = 1000};
}

TEST(ResumeTokenTest, ReturnsTheSeedToTheSameRequest) {
  const ResumeTokenSigner signer("a cluster secret");
  const std::string token = signer.Sign(Claims());
  EXPECT_EQ(token.size(), kResumeTokenBytes);
  // Any gateway of the cluster takes it.
  const auto seed = ResumeTokenSigner("a cluster secret").Verify(token, Claims(), 999);
  ASSERT_TRUE(seed.ok()) << seed.status();
  EXPECT_EQ(*seed, Claims().seed);
}

TEST(ResumeTokenTest, RefusesAnyChangedByte) {
  const ResumeTokenSigner signer("a cluster secret");
  const std::string token = signer.Sign(Claims());
  for (size_t i = 0; i < token.size(); ++i) {
    std::string changed = token;
    changed[i] = static_cast<char>(changed[i] ^ 1);
    EXPECT_TRUE(absl::IsInvalidArgument(signer.Verify(changed, Claims(), 0).status()))
        << "byte " << i;
  }
  for (const std::string& wrong : {std::string(), token.substr(1), token + "x"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(signer.Verify(wrong, Claims(), 0).status()));
  }
}

TEST(ResumeTokenTest, RefusesOtherClaimsAndSaysWhich) {
  const ResumeTokenSigner signer("a cluster secret");
  const std::string token = signer.Sign(Claims());
  const auto message = [&](const ResumeClaims& claims, int64_t now) {
    const absl::Status status = signer.Verify(token, claims, now).status();
    EXPECT_TRUE(absl::IsFailedPrecondition(status)) << status;
    return std::string(status.message());
  };
  EXPECT_NE(message(Claims(), 1000).find("expired"), std::string::npos);
  ResumeClaims other = Claims();
  other.tenant = "bob";
  EXPECT_NE(message(other, 0).find("tenant"), std::string::npos);
  other = Claims();
  other.definition_hash[0] = 'x';
  EXPECT_NE(message(other, 0).find("prompt"), std::string::npos);
  other = Claims();
  other.fingerprint[0] = 'x';
  EXPECT_NE(message(other, 0).find("model"), std::string::npos);
  other = Claims();
  other.text_version[0] = 'x';
  EXPECT_NE(message(other, 0).find("tokenizer"), std::string::npos);
}

TEST(ResumeTokenTest, AnotherClusterOrAKeylessProcessCannotSign) {
  const std::string token = ResumeTokenSigner("a cluster secret").Sign(Claims());
  EXPECT_FALSE(ResumeTokenSigner("another secret").Verify(token, Claims(), 0).ok());
  EXPECT_FALSE(ResumeTokenSigner("").Verify(token, Claims(), 0).ok());
  EXPECT_FALSE(
      ResumeTokenSigner("").Verify(ResumeTokenSigner("").Sign(Claims()), Claims(), 0).ok());
}

}  // namespace
}  // namespace conclave::gateway

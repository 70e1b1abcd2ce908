#include "services/gateway/resume_token.h"

#include <openssl/crypto.h>

#include <cstring>

#include "absl/strings/str_cat.h"
#include "shared/base/random_bytes.h"
#include "shared/base/sha256.h"

namespace conclave::gateway {

namespace {

constexpr char kVersion = 1;
constexpr size_t kExpiryAt = 1;
constexpr size_t kSeedAt = 9;
constexpr size_t kTenantAt = 17;
constexpr size_t kDefinitionAt = 49;
constexpr size_t kFingerprintAt = 81;
constexpr size_t kTextVersionAt = 113;
constexpr size_t kMacAt = 145;

std::string Hmac(std::string_view key, std::string_view bytes) {
  return std::string(BytesOf(HmacSha256(key, bytes)));
}

std::string HashOf(std::string_view bytes) { return std::string(BytesOf(Sha256(bytes))); }

// HashOf what is mostly the same as the last time.
class LastHash {
 public:
  const std::string& Of(std::string_view bytes) {
    if (hash_.empty() || bytes != bytes_) {
      hash_ = HashOf(bytes);
      bytes_ = bytes;
    }
    return hash_;
  }

 private:
  std::string bytes_, hash_;
};

void AppendU64(uint64_t value, std::string* bytes) {
  for (int shift = 0; shift < 64; shift += 8) bytes->push_back(static_cast<char>(value >> shift));
}

uint64_t ReadU64(std::string_view bytes) {
  uint64_t value = 0;
  for (int i = 7; i >= 0; --i)
    value = value << 8 | static_cast<uint8_t>(bytes[static_cast<size_t>(i)]);
  return value;
}

}  // namespace

ResumeTokenSigner::ResumeTokenSigner(std::string_view cluster_secret) {
  if (cluster_secret.empty()) {
    key_ = RandomBytes(32);
  } else {
    key_ = Hmac(cluster_secret, "conclave resume token 1");
  }
}

std::string ResumeTokenSigner::Sign(const ResumeClaims& claims) const {
  thread_local LastHash tenant, fingerprint, text_version;
  std::string token;
  token.reserve(kResumeTokenBytes);
  token.push_back(kVersion);
  AppendU64(static_cast<uint64_t>(claims.expires_unix_s), &token);
  AppendU64(claims.seed, &token);
  token += tenant.Of(claims.tenant);
  token += claims.definition_hash;
  token += fingerprint.Of(claims.fingerprint);
  token += text_version.Of(claims.text_version);
  return token + Hmac(key_, token);
}

absl::StatusOr<uint64_t> ResumeTokenSigner::Verify(std::string_view token,
                                                   const ResumeClaims& expected,
                                                   int64_t now_unix_s) const {
  if (token.size() != kResumeTokenBytes || token[0] != kVersion) {
    return absl::InvalidArgumentError(absl::StrCat("resume token: expected ", kResumeTokenBytes,
                                                   " bytes of version 1, found ", token.size(),
                                                   " bytes"));
  }
  const std::string mac = Hmac(key_, token.substr(0, kMacAt));
  if (CRYPTO_memcmp(mac.data(), token.data() + kMacAt, mac.size()) != 0) {
    return absl::InvalidArgumentError(
        "resume token: not signed by this cluster, or changed; start the request anew");
  }
  const auto differs = [&](size_t at, const std::string& value) {
    return token.substr(at, sizeof(Sha256Digest)) != value;
  };
  const auto refuse = [](const char* what) {
    return absl::FailedPreconditionError(
        absl::StrCat("resume token: ", what, "; start the request anew"));
  };
  if (static_cast<int64_t>(ReadU64(token.substr(kExpiryAt))) <= now_unix_s)
    return refuse("expired");
  if (differs(kTenantAt, HashOf(expected.tenant))) return refuse("issued to another tenant");
  if (differs(kDefinitionAt, expected.definition_hash)) {
    return refuse("issued for another prompt or other parameters");
  }
  if (differs(kFingerprintAt, HashOf(expected.fingerprint))) {
    return refuse("issued for another model or numerics class");
  }
  if (differs(kTextVersionAt, HashOf(expected.text_version))) {
    return refuse("issued for another tokenizer or chat template");
  }
  return ReadU64(token.substr(kSeedAt));
}

}  // namespace conclave::gateway

// The token by which a client, with its request and the ids it already has, may have a generation
// continued by any gateway.
//
// A MAC under the cluster secret (or a key drawn at start where there is none), so that a gateway
// can trust the seed and fingerprint in it. Layout, little-endian; docs/openai.md, "Resume tokens":
//
//   byte   0        version, 1
//   bytes  1-8      expiry, seconds since 1970
//   bytes  9-16     seed
//   bytes 17-48     SHA-256 of the tenant's name
//   bytes 49-80     definition hash (generation.h)
//   bytes 81-112    SHA-256 of the model's fingerprint, as 64 hex digits
//   bytes 113-144   SHA-256 of the text version, as 64 hex digits
//   bytes 145-176   HMAC-SHA256 of bytes 0-144
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace conclave::gateway {

inline constexpr size_t kResumeTokenBytes = 177;
inline constexpr int64_t kResumeTokenLifetimeSeconds = 24 * 3600;

// What a token vouches for.
struct ResumeClaims {
  std::string tenant;           // empty: the only one
  std::string definition_hash;  // 32 bytes
  uint64_t seed = 0;
  std::string fingerprint;
  std::string text_version;
  int64_t expires_unix_s = 0;
};

class ResumeTokenSigner {
 public:
  // `cluster_secret` empty: a random key, so that tokens die with this process.
  explicit ResumeTokenSigner(std::string_view cluster_secret);

  std::string Sign(const ResumeClaims& claims) const;

  // Checks a token against what the client's request says and the model served; `claims.seed` is
  // not compared: the token's is returned. INVALID_ARGUMENT: malformed, or not signed by this
  // cluster. FAILED_PRECONDITION: expired, or of another tenant, request, model or tokenizer,
  // saying which.
  absl::StatusOr<uint64_t> Verify(std::string_view token, const ResumeClaims& expected,
                                  int64_t now_unix_s) const;

 private:
  std::string key_;  // 32 bytes
};

}  // namespace conclave::gateway

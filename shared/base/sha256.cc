#include "shared/base/sha256.h"

// The functions that OpenSSL 3 calls deprecated are those that neither look up nor allocate: of a
// short text the others (EVP_*) take twice as long.
#define OPENSSL_SUPPRESS_DEPRECATED
#include <openssl/sha.h>

#include <cstring>

namespace conclave {
namespace {

constexpr size_t kBlockBytes = 64;

}  // namespace

Sha256Digest Sha256(std::initializer_list<std::string_view> parts) {
  SHA256_CTX context;
  SHA256_Init(&context);
  for (const std::string_view part : parts) SHA256_Update(&context, part.data(), part.size());
  Sha256Digest digest;
  SHA256_Final(digest.data(), &context);
  return digest;
}

Sha256Digest HmacSha256(std::string_view key, std::string_view bytes) {
  std::array<char, kBlockBytes> inner{};
  if (key.size() > kBlockBytes) {
    const Sha256Digest digest = Sha256(key);
    std::memcpy(inner.data(), digest.data(), digest.size());
  } else {
    std::memcpy(inner.data(), key.data(), key.size());
  }
  std::array<char, kBlockBytes> outer = inner;
  for (char& c : inner) c = static_cast<char>(c ^ 0x36);
  for (char& c : outer) c = static_cast<char>(c ^ 0x5c);
  const Sha256Digest digest = Sha256({{inner.data(), inner.size()}, bytes});
  return Sha256({{outer.data(), outer.size()}, BytesOf(digest)});
}

}  // namespace conclave

#include "shared/base/sha256.h"

#include <openssl/evp.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>

namespace conclave {
namespace {

constexpr size_t kBlockBytes = 64;

struct Free {
  void operator()(EVP_MD_CTX* context) const { EVP_MD_CTX_free(context); }
};

// Without SHA-256 there are no keys, no caches and no addresses of blocks.
[[noreturn]] void Missing() {
  std::fprintf(stderr, "this host's OpenSSL has no SHA-256\n");
  std::abort();
}

const EVP_MD* Algorithm() {
  // Kept to the end of the process, for its last threads.
  static const EVP_MD* const algorithm = EVP_MD_fetch(nullptr, "SHA256", nullptr);
  if (algorithm == nullptr) Missing();
  return algorithm;
}

}  // namespace

Sha256Digest Sha256(std::initializer_list<std::string_view> parts) {
  thread_local const std::unique_ptr<EVP_MD_CTX, Free> context(EVP_MD_CTX_new());
  Sha256Digest digest;
  bool good = context != nullptr && EVP_DigestInit_ex2(context.get(), Algorithm(), nullptr) == 1;
  for (const std::string_view part : parts) {
    good = good && EVP_DigestUpdate(context.get(), part.data(), part.size()) == 1;
  }
  if (!good || EVP_DigestFinal_ex(context.get(), digest.data(), nullptr) != 1) Missing();
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

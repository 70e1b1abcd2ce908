// SHA-256 and its HMAC (RFC 2104) of bytes in memory: without what OpenSSL's one-shot
// functions do at every call, which is to look up the algorithm under locks.
//
// Pure functions; any thread.
#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string_view>

namespace conclave {

using Sha256Digest = std::array<uint8_t, 32>;

// Of the parts one after the other, as if they were one text.
Sha256Digest Sha256(std::initializer_list<std::string_view> parts);
inline Sha256Digest Sha256(std::string_view bytes) { return Sha256({bytes}); }

Sha256Digest HmacSha256(std::string_view key, std::string_view bytes);

// A digest's bytes as they stand in messages and files.
inline std::string_view BytesOf(const Sha256Digest& digest) {
  return {reinterpret_cast<const char*>(digest.data()), digest.size()};
}

}  // namespace conclave

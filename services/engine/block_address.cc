#include "services/engine/block_address.h"

#include <openssl/sha.h>

#include <bit>
#include <cstring>
#include <string>

#include "kernels/attention.h"
#include "shared/base/check.h"

namespace conclave::engine {

static_assert(std::endian::native == std::endian::little, "ids are hashed as little-endian words");

BlockAddress RootAddress(std::string_view fingerprint, std::string_view tenant_salt) {
  // The length keeps (fingerprint, salt) apart from every other cut of the same characters.
  std::string text = "conclave kv 1\n";
  text += std::to_string(fingerprint.size()) + ":";
  text += fingerprint;
  text += tenant_salt;
  BlockAddress address;
  SHA256(reinterpret_cast<const unsigned char*>(text.data()), text.size(), address.digest.data());
  return address;
}

BlockAddress NextAddress(const BlockAddress& previous, std::span<const int32_t> ids) {
  CONCLAVE_CHECK(ids.size() == kernels::kBlockTokens);
  unsigned char input[sizeof(BlockAddress) + kernels::kBlockTokens * sizeof(int32_t)];
  std::memcpy(input, previous.digest.data(), previous.digest.size());
  std::memcpy(input + previous.digest.size(), ids.data(), ids.size_bytes());
  BlockAddress address;
  SHA256(input, sizeof(input), address.digest.data());
  return address;
}

}  // namespace conclave::engine

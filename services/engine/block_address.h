// The content address of a full KV block: what its bytes are a function of.
//
// Address i = SHA-256(address i - 1, the block's kBlockTokens ids); the chain starts from the
// model's fingerprint and the tenant's salt. Equal addresses mean equal bytes (docs/numerics.md:
// any cut into steps gives the same bits), and tenants with different salts never share a block.
#pragma once

#include <array>
#include <cstdint>
#include <span>
#include <string_view>

namespace conclave::engine {

struct BlockAddress {
  std::array<uint8_t, 32> digest{};
  friend auto operator<=>(const BlockAddress&, const BlockAddress&) = default;
};

// Where the chain of one model and tenant starts.
BlockAddress RootAddress(std::string_view fingerprint, std::string_view tenant_salt);

// The address of the block that follows `previous` and holds `ids`. Precondition: ids.size() ==
// kernels::kBlockTokens.
BlockAddress NextAddress(const BlockAddress& previous, std::span<const int32_t> ids);

}  // namespace conclave::engine

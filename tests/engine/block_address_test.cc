#include "services/engine/block_address.h"

#include <set>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention.h"

namespace conclave::engine {
namespace {

std::vector<int32_t> Block(int32_t first) {
  std::vector<int32_t> ids(kernels::kBlockTokens);
  for (size_t i = 0; i < ids.size(); ++i) ids[i] = first + static_cast<int32_t>(i);
  return ids;
}

TEST(BlockAddress, DependsOnModelTenantAndEveryTokenBefore) {
  std::set<BlockAddress> all;
  for (const char* fingerprint : {"a", "b"}) {
    for (const char* salt : {"", "x", "y"}) {
      const BlockAddress root = RootAddress(fingerprint, salt);
      const BlockAddress first = NextAddress(root, Block(0));
      std::vector<int32_t> changed = Block(0);
      changed.back() += 1;
      all.insert({root, first, NextAddress(root, changed), NextAddress(first, Block(0)),
                  NextAddress(NextAddress(root, changed), Block(0))});
    }
  }
  EXPECT_EQ(all.size(), 2u * 3u * 5u);
}

TEST(BlockAddress, IsTheSameForTheSameContent) {
  EXPECT_EQ(NextAddress(RootAddress("f", "s"), Block(3)),
            NextAddress(RootAddress("f", "s"), Block(3)));
}

TEST(BlockAddress, KeepsFingerprintAndSaltApart) {
  EXPECT_NE(RootAddress("ab", "c"), RootAddress("a", "bc"));
  EXPECT_NE(RootAddress("1", "1:x"), RootAddress("11", ":x"));
}

TEST(BlockAddressDeathTest, RefusesAPartialBlock) {
  const std::vector<int32_t> ids(kernels::kBlockTokens - 1);
  EXPECT_DEATH(NextAddress(BlockAddress(), ids), "check failed");
}

}  // namespace
}  // namespace conclave::engine

#include "services/engine/kv_cache.h"

#include <algorithm>
#include <cstring>
#include <map>
#include <vector>

#include "gtest/gtest.h"
#include "kernels/attention.h"
#include "rapidcheck/gtest.h"

namespace conclave::engine {
namespace {

constexpr int64_t kBlockBytes = 128;

TEST(KvCache, GivesAllOrNothing) {
  KvCache cache(*MapKvMemory(4, kBlockBytes));
  EXPECT_EQ(cache.capacity_tokens(), 4 * kernels::kBlockTokens);
  std::vector<int32_t> blocks;
  EXPECT_TRUE(cache.Allocate(3, &blocks));
  EXPECT_FALSE(cache.Allocate(2, &blocks));
  EXPECT_EQ(blocks.size(), 3u);
  EXPECT_EQ(cache.free_blocks(), 1);
  EXPECT_TRUE(cache.Allocate(1, &blocks));
  EXPECT_EQ(cache.used_blocks(), 4);
  EXPECT_TRUE(cache.Allocate(0, &blocks));
}

TEST(KvCache, ZeroesABlockThatWasUsedBefore) {
  KvCache cache(*MapKvMemory(1, kBlockBytes));
  std::vector<int32_t> blocks;
  ASSERT_TRUE(cache.Allocate(1, &blocks));
  std::memset(cache.storage().base, 0xAB, kBlockBytes);
  cache.Release(blocks[0]);
  blocks.clear();
  ASSERT_TRUE(cache.Allocate(1, &blocks));
  EXPECT_TRUE(std::all_of(cache.storage().base, cache.storage().base + kBlockBytes,
                          [](std::byte b) { return b == std::byte{0}; }));
}

TEST(KvCache, AddressesBlocksUntilTheirLastHolderLeaves) {
  KvCache cache(*MapKvMemory(2, kBlockBytes));
  std::vector<int32_t> blocks;
  ASSERT_TRUE(cache.Allocate(1, &blocks));
  EXPECT_EQ(cache.AddressOf(blocks[0]), nullptr);
  const BlockAddress address = RootAddress("f", "");
  cache.Seal(blocks[0], address);
  ASSERT_NE(cache.AddressOf(blocks[0]), nullptr);
  EXPECT_EQ(*cache.AddressOf(blocks[0]), address);
  cache.AddReference(blocks[0]);
  cache.Release(blocks[0]);
  EXPECT_EQ(cache.free_blocks(), 1);
  EXPECT_NE(cache.AddressOf(blocks[0]), nullptr);
  cache.Release(blocks[0]);
  EXPECT_EQ(cache.free_blocks(), 2);
  EXPECT_EQ(cache.AddressOf(blocks[0]), nullptr);
}

TEST(KvCacheDeathTest, RefusesABrokenCount) {
  KvCache cache(*MapKvMemory(2, kBlockBytes));
  EXPECT_DEATH(cache.Release(0), "check failed");
  EXPECT_DEATH(cache.AddReference(1), "check failed");
  EXPECT_DEATH(cache.Release(2), "check failed");
  EXPECT_DEATH(cache.Seal(0, BlockAddress()), "check failed");
  std::vector<int32_t> blocks;
  ASSERT_TRUE(cache.Allocate(1, &blocks));
  cache.Seal(blocks[0], BlockAddress());
  EXPECT_DEATH(cache.Seal(blocks[0], BlockAddress()), "check failed");
}

TEST(KvMemory, NamesTheSizeThatCannotBeMapped) {
  const auto memory = MapKvMemory(1 << 20, int64_t{1} << 40);
  ASSERT_FALSE(memory.ok());
  EXPECT_EQ(memory.status().code(), absl::StatusCode::kResourceExhausted);
  EXPECT_NE(memory.status().message().find("MiB"), absl::string_view::npos);
}

TEST(BlocksFor, RoundsUp) {
  EXPECT_EQ(BlocksFor(0), 0);
  EXPECT_EQ(BlocksFor(1), 1);
  EXPECT_EQ(BlocksFor(kernels::kBlockTokens), 1);
  EXPECT_EQ(BlocksFor(kernels::kBlockTokens + 1), 2);
}

// Against a plain count of holders: any order of taking, sharing and giving back.
RC_GTEST_PROP(KvCacheProperty, CountsEveryBlockExactly, ()) {
  const int32_t num_blocks = *rc::gen::inRange(1, 12);
  KvCache cache(*MapKvMemory(num_blocks, kBlockBytes));
  std::map<int32_t, int32_t> holders;
  const int num_actions = *rc::gen::inRange(0, 120);
  for (int i = 0; i < num_actions; ++i) {
    const int action = *rc::gen::inRange(0, 3);
    if (action == 0) {
      const int32_t count = *rc::gen::inRange(0, num_blocks + 2);
      std::vector<int32_t> blocks;
      const bool fits = count <= num_blocks - static_cast<int32_t>(holders.size());
      RC_ASSERT(cache.Allocate(count, &blocks) == fits);
      RC_ASSERT(static_cast<int32_t>(blocks.size()) == (fits ? count : 0));
      for (int32_t block : blocks) RC_ASSERT(holders.emplace(block, 1).second);  // nobody else's
    } else if (!holders.empty()) {
      const auto held =
          std::next(holders.begin(), *rc::gen::inRange<int>(0, static_cast<int>(holders.size())));
      if (action == 1) {
        cache.AddReference(held->first);
        ++held->second;
      } else {
        cache.Release(held->first);
        if (--held->second == 0) holders.erase(held);
      }
    }
    RC_ASSERT(cache.used_blocks() == static_cast<int32_t>(holders.size()));
    for (const auto& [block, count] : holders) RC_ASSERT(cache.references(block) == count);
  }
}

}  // namespace
}  // namespace conclave::engine

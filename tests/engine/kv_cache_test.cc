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
  KvCache cache(*MapKvMemory(4, kBlockBytes), true);
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
  KvCache cache(*MapKvMemory(1, kBlockBytes), true);
  std::vector<int32_t> blocks;
  ASSERT_TRUE(cache.Allocate(1, &blocks));
  std::memset(cache.storage().base, 0xAB, kBlockBytes);
  cache.Release(blocks[0]);
  blocks.clear();
  ASSERT_TRUE(cache.Allocate(1, &blocks));
  EXPECT_TRUE(std::all_of(cache.storage().base, cache.storage().base + kBlockBytes,
                          [](std::byte b) { return b == std::byte{0}; }));
}

TEST(KvCache, AddressesBlocksUntilTheirLastHolderLeavesIfNothingIsReused) {
  KvCache cache(*MapKvMemory(2, kBlockBytes), false);
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
  EXPECT_EQ(cache.Find(address), std::nullopt);
}

// Addresses 0, 1, ... of one chain.
BlockAddress Address(int32_t index) {
  BlockAddress address = RootAddress("f", "");
  address.digest[0] = static_cast<uint8_t>(index);
  return address;
}

TEST(KvCache, KeepsContentsUntilTheirMemoryIsNeeded) {
  KvCache cache(*MapKvMemory(4, kBlockBytes), true);
  std::vector<int32_t> blocks;
  ASSERT_TRUE(cache.Allocate(3, &blocks));
  for (int32_t i = 0; i < 3; ++i) {
    std::memset(cache.storage().base + blocks[i] * kBlockBytes, 10 + i, kBlockBytes);
    cache.Seal(blocks[i], Address(i));
  }
  for (int32_t i = 2; i >= 0; --i) cache.Release(blocks[i]);
  EXPECT_EQ(cache.free_blocks(), 4);
  EXPECT_EQ(cache.cached_blocks(), 3);
  EXPECT_EQ(cache.Find(Address(7)), std::nullopt);

  // Block 2 was left first; but who takes it makes it the youngest.
  ASSERT_EQ(cache.Find(Address(2)), blocks[2]);
  cache.AddReference(blocks[2]);
  EXPECT_EQ(cache.references(blocks[2]), 1);
  EXPECT_EQ(cache.used_blocks(), 1);
  EXPECT_EQ(cache.storage().base[blocks[2] * kBlockBytes], std::byte{12});
  cache.Release(blocks[2]);

  // The empty one, then the longest unused.
  std::vector<int32_t> taken;
  ASSERT_TRUE(cache.Allocate(2, &taken));
  EXPECT_EQ(taken[1], blocks[1]);
  EXPECT_EQ(cache.storage().base[blocks[1] * kBlockBytes], std::byte{0});
  EXPECT_EQ(cache.AddressOf(blocks[1]), nullptr);
  EXPECT_EQ(cache.Find(Address(1)), std::nullopt);
  EXPECT_EQ(cache.Find(Address(0)), blocks[0]);
  EXPECT_EQ(cache.Find(Address(2)), blocks[2]);
}

TEST(KvCache, FindsOneOfTwoBlocksWithOneAddress) {
  KvCache cache(*MapKvMemory(2, kBlockBytes), true);
  std::vector<int32_t> blocks;
  ASSERT_TRUE(cache.Allocate(2, &blocks));
  for (const int32_t block : blocks) cache.Seal(block, Address(0));
  EXPECT_EQ(cache.Find(Address(0)), blocks[0]);
  cache.Release(blocks[1]);
  EXPECT_EQ(cache.cached_blocks(), 0) << "nobody would find it";
  cache.Release(blocks[0]);
  EXPECT_EQ(cache.cached_blocks(), 1);
  EXPECT_EQ(cache.free_blocks(), 2);
}

TEST(KvCache, KeepsTheSecondOfTwoBlocksWithOneAddressIfTheFirstIsGone) {
  KvCache cache(*MapKvMemory(2, kBlockBytes), true);
  std::vector<int32_t> blocks, taken;
  ASSERT_TRUE(cache.Allocate(2, &blocks));
  for (const int32_t block : blocks) cache.Seal(block, Address(0));
  cache.Release(blocks[0]);
  ASSERT_TRUE(cache.Allocate(1, &taken));  // over the first one's contents
  EXPECT_EQ(cache.Find(Address(0)), std::nullopt);
  cache.Release(blocks[1]);
  EXPECT_EQ(cache.Find(Address(0)), blocks[1]);
}

TEST(KvCacheDeathTest, RefusesABrokenCount) {
  KvCache cache(*MapKvMemory(2, kBlockBytes), true);
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

// Against a plain model: any order of taking, sealing, sharing, finding and giving back.
RC_GTEST_PROP(KvCacheProperty, CountsEveryBlockExactlyAndFindsWhatItKeeps, ()) {
  const int32_t num_blocks = *rc::gen::inRange(1, 12);
  KvCache cache(*MapKvMemory(num_blocks, kBlockBytes), true);
  std::map<int32_t, int32_t> holders;
  std::map<int32_t, int32_t> content;  // of blocks that are sealed and found
  const int num_actions = *rc::gen::inRange(0, 160);
  for (int i = 0; i < num_actions; ++i) {
    const int action = *rc::gen::inRange(0, 5);
    if (action == 0) {
      const int32_t count = *rc::gen::inRange(0, num_blocks + 2);
      std::vector<int32_t> blocks;
      const bool fits = count <= num_blocks - static_cast<int32_t>(holders.size());
      RC_ASSERT(cache.Allocate(count, &blocks) == fits);
      RC_ASSERT(static_cast<int32_t>(blocks.size()) == (fits ? count : 0));
      for (int32_t block : blocks) {
        RC_ASSERT(holders.emplace(block, 1).second);  // nobody else's
        content.erase(block);
      }
    } else if (action == 1) {
      const int32_t wanted = *rc::gen::inRange(0, 6);
      const auto found = cache.Find(Address(wanted));
      const auto at = std::ranges::find(content, wanted, [](const auto& c) { return c.second; });
      RC_ASSERT(found.has_value() == (at != content.end()));
      if (!found.has_value()) continue;
      RC_ASSERT(*found == at->first);
      cache.AddReference(*found);
      ++holders[*found];
    } else if (!holders.empty()) {
      const auto held =
          std::next(holders.begin(), *rc::gen::inRange<int>(0, static_cast<int>(holders.size())));
      if (action == 2) {
        cache.AddReference(held->first);
        ++held->second;
      } else if (action == 3) {
        if (cache.AddressOf(held->first) != nullptr) continue;
        const int32_t address = *rc::gen::inRange(0, 6);
        const bool first = !cache.Find(Address(address)).has_value();
        cache.Seal(held->first, Address(address));
        if (first) content[held->first] = address;
      } else {
        const int32_t block = held->first;
        if (cache.AddressOf(block) != nullptr && held->second == 1) {
          const int32_t address = cache.AddressOf(block)->digest[0];
          if (!cache.Find(Address(address)).has_value()) content[block] = address;
        }
        cache.Release(block);
        if (--held->second == 0) holders.erase(held);
      }
    }
    RC_ASSERT(cache.used_blocks() == static_cast<int32_t>(holders.size()));
    const auto kept =
        std::ranges::count_if(content, [&](const auto& c) { return !holders.contains(c.first); });
    RC_ASSERT(cache.cached_blocks() == kept);
    for (const auto& [block, count] : holders) RC_ASSERT(cache.references(block) == count);
    for (const auto& [block, address] : content) RC_ASSERT(cache.Find(Address(address)) == block);
  }
}

}  // namespace
}  // namespace conclave::engine

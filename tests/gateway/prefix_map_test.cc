#include "services/gateway/prefix_map.h"

#include <gtest/gtest.h>

#include <numeric>

namespace conclave::gateway {
namespace {

std::vector<int32_t> Ids(int64_t count, int32_t first = 1) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  std::iota(ids.begin(), ids.end(), first);
  return ids;
}

std::vector<uint64_t> Hashes(int64_t count, int32_t first = 1) {
  return PrefixHashes("", Ids(count, first));
}

TEST(PrefixMapTest, KnowsTheBeginningsOfWhatItWasTold) {
  PrefixMap map;
  EXPECT_EQ(map.LongestPrefix(Hashes(100)), 0);
  map.Remember(Hashes(100), 1000);
  EXPECT_EQ(map.LongestPrefix(Hashes(100)), 96);
  EXPECT_EQ(map.LongestPrefix(Hashes(500)), 96);
  EXPECT_EQ(map.LongestPrefix(Hashes(70)), 64);
  EXPECT_EQ(map.LongestPrefix(Hashes(31)), 0);
  EXPECT_EQ(map.LongestPrefix(Hashes(100, 2)), 0);
  std::vector<int32_t> other = Ids(100);
  other[40] = 7;
  EXPECT_EQ(map.LongestPrefix(PrefixHashes("", other)), 32);
}

TEST(PrefixMapTest, ScopesShareNothing) {
  PrefixMap map;
  map.Remember(PrefixHashes("red", Ids(100)), 1000);
  EXPECT_EQ(map.LongestPrefix(PrefixHashes("red", Ids(100))), 96);
  EXPECT_EQ(map.LongestPrefix(PrefixHashes("blue", Ids(100))), 0);
}

TEST(PrefixMapTest, ForgetsTheEndOfWhatWasUsedLongestAgo) {
  PrefixMap map;
  map.Remember(Hashes(96), 256);
  map.Remember(Hashes(96, 1000), 256);
  map.Remember(Hashes(96), 256);
  map.Remember(Hashes(128, 2000), 256);  // ten steps, of which eight may stay
  EXPECT_EQ(map.LongestPrefix(Hashes(96, 1000)), 32);
  EXPECT_EQ(map.LongestPrefix(Hashes(96)), 96);
  EXPECT_EQ(map.LongestPrefix(Hashes(128, 2000)), 128);
  map.Remember(Hashes(96), 0);  // of an engine that does not say what it holds
  EXPECT_EQ(map.LongestPrefix(Hashes(96)), 0);
}

}  // namespace
}  // namespace conclave::gateway

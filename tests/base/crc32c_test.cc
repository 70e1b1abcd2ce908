#include "shared/base/crc32c.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <functional>
#include <random>
#include <span>
#include <string_view>
#include <vector>

namespace conclave {
namespace {

using Extend = std::function<uint32_t(uint32_t, std::span<const std::byte>)>;

// The definition, a bit at a time.
uint32_t ExtendByBits(uint32_t crc, std::span<const std::byte> bytes) {
  crc = ~crc;
  for (const std::byte byte : bytes) {
    crc ^= static_cast<uint32_t>(byte);
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ (crc & 1 ? 0x82f63b78u : 0u);
  }
  return ~crc;
}

std::vector<std::byte> RandomBytes(size_t size) {
  std::mt19937 random(7);
  std::vector<std::byte> bytes(size);
  for (std::byte& byte : bytes) byte = static_cast<std::byte>(random());
  return bytes;
}

// The ways that this machine has, each with its name.
std::vector<std::pair<const char*, Extend>> Ways() {
  std::vector<std::pair<const char*, Extend>> ways = {{"chosen", ExtendCrc32c},
                                                      {"by table", internal::ExtendCrc32cByTable}};
  if (internal::HasCrc32cInstruction()) {
    ways.emplace_back("by instruction", internal::ExtendCrc32cByInstruction);
  }
  return ways;
}

TEST(Crc32cTest, GivesTheValuesOfTheRfc) {
  std::vector<std::byte> ascending(32), descending(32);
  for (size_t i = 0; i < 32; ++i) {
    ascending[i] = static_cast<std::byte>(i);
    descending[i] = static_cast<std::byte>(31 - i);
  }
  for (const auto& [name, extend] : Ways()) {
    EXPECT_EQ(extend(0, std::vector<std::byte>(32)), 0x8a9136aau) << name;
    EXPECT_EQ(extend(0, std::vector<std::byte>(32, std::byte{0xff})), 0x62a8ab43u) << name;
    EXPECT_EQ(extend(0, ascending), 0x46dd794eu) << name;
    EXPECT_EQ(extend(0, descending), 0x113fdb5cu) << name;
    EXPECT_EQ(extend(0, std::as_bytes(std::span(std::string_view("123456789")))), 0xe3069283u)
        << name;
    EXPECT_EQ(extend(0, {}), 0u) << name;
    EXPECT_EQ(extend(0x12345678, {}), 0x12345678u) << name;
  }
}

TEST(Crc32cTest, EqualsTheDefinitionAtAllLengthsAndAlignments) {
  constexpr size_t kLongest = 5000;
  const std::vector<std::byte> bytes = RandomBytes(kLongest + 8);
  for (const size_t offset : {0, 1, 3, 5, 7}) {
    uint32_t expected = 0;  // of the first `length` bytes
    for (size_t length = 0; length <= kLongest; ++length) {
      const auto part = std::span(bytes).subspan(offset, length);
      if (length > 0) expected = ExtendByBits(expected, part.last(1));
      for (const auto& [name, extend] : Ways()) {
        ASSERT_EQ(extend(0, part), expected) << name << " of " << length << " at " << offset;
      }
    }
  }
}

TEST(Crc32cTest, EqualsTheDefinitionWhereBlocksEnd) {
  const std::vector<std::byte> bytes = RandomBytes(3 * (3 * 4096 + 3 * 256) + 1);
  for (const size_t blocks : {1u, 2u, 3u}) {
    for (const size_t block : {3 * 4096u, 3 * 4096u + 3 * 256u}) {
      for (const size_t length : {blocks * block - 1, blocks * block, blocks * block + 1}) {
        const auto part = std::span(bytes).first(length);
        const uint32_t expected = ExtendByBits(0, part);
        for (const auto& [name, extend] : Ways()) EXPECT_EQ(extend(0, part), expected) << name;
      }
    }
  }
}

TEST(Crc32cTest, GoesOnWhereItStopped) {
  const std::vector<std::byte> bytes = RandomBytes(40'000);
  const uint32_t expected = ExtendByBits(0, bytes);
  std::mt19937 random(11);
  for (int round = 0; round < 200; ++round) {
    for (const auto& [name, extend] : Ways()) {
      uint32_t crc = 0;
      for (std::span<const std::byte> rest = bytes; !rest.empty();) {
        const size_t most = random() % 4 == 0 ? 20'000 : 300;
        const size_t size = std::min<size_t>(rest.size(), random() % most);
        crc = extend(crc, rest.first(size));
        rest = rest.subspan(size);
      }
      ASSERT_EQ(crc, expected) << name;
    }
  }
}

TEST(Crc32cTest, NoticesEveryBit) {
  std::vector<std::byte> bytes = RandomBytes(1000);
  const uint32_t expected = Crc32c(bytes);
  for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
    ASSERT_NE(Crc32c(bytes), expected) << "bit " << bit;
    bytes[bit / 8] ^= std::byte{1} << (bit % 8);
  }
}

}  // namespace
}  // namespace conclave

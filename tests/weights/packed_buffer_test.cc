#include "shared/weights/packed_buffer.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>
#include <utility>

namespace conclave::weights {
namespace {

TEST(PackedBufferTest, GivesZeroedAlignedMemoryInOrder) {
  for (const size_t capacity : {size_t{192}, size_t{5} << 20}) {
    PackedBuffer buffer(capacity);
    EXPECT_EQ(buffer.capacity_bytes(), capacity);
    std::byte* const first = buffer.Take(65);
    std::byte* const second = buffer.Take(64);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(first) % 64, 0u);
    EXPECT_EQ(second, first + 128);
    EXPECT_TRUE(std::all_of(first, first + capacity, [](std::byte b) { return b == std::byte{}; }));
    first[capacity - 1] = std::byte{1};  // the last byte is there, too

    const PackedBuffer moved = std::move(buffer);
    EXPECT_EQ(moved.capacity_bytes(), capacity);
    EXPECT_EQ(first[capacity - 1], std::byte{1});
  }
}

TEST(PackedBufferTest, RoundsItsCapacityUp) {
  EXPECT_EQ(PackedBuffer(65).capacity_bytes(), 128u);
  EXPECT_EQ(PackedBuffer().capacity_bytes(), 0u);
}

TEST(PackedBufferDeathTest, GivesNoMoreThanItHas) {
  PackedBuffer buffer(128);
  buffer.Take(64);
  EXPECT_DEATH(buffer.Take(65), "");
}

}  // namespace
}  // namespace conclave::weights

#include "shared/shm/ring.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <vector>

#include "tests/shm/ring_memory.h"

namespace conclave::shm {
namespace {

using conclave::testing::RingMemory;
using Record = std::span<const std::byte>;

constexpr size_t kCapacity = 4096;

class RingTest : public ::testing::Test {
 protected:
  // Where the record was written; null while there is no room.
  std::byte* Write(size_t bytes, int content = 1) {
    const auto place = writer_.Reserve(bytes);
    EXPECT_TRUE(place.ok()) << place.status();
    if (!place.ok() || place->empty()) return nullptr;
    EXPECT_EQ(place->size(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(place->data()) % 64, 0u);
    std::memset(place->data(), content, bytes);
    writer_.Commit();
    return place->data();
  }
  // Empty while there is none.
  Record Read() {
    const auto record = reader_.Next();
    EXPECT_TRUE(record.ok()) << record.status();
    return record.ok() ? record->value_or(Record()) : Record();
  }
  void ExpectRead(size_t bytes, int content) {
    const Record record = Read();
    EXPECT_EQ(record.size(), bytes);
    EXPECT_TRUE(std::ranges::all_of(
        record, [&](std::byte b) { return b == static_cast<std::byte>(content); }));
    reader_.Release(record);
  }

  RingMemory memory_{kCapacity};
  RingWriter writer_{memory_.bytes()};
  RingReader reader_{memory_.bytes()};
};

TEST_F(RingTest, HasTheSizesItSays) {
  EXPECT_EQ(RingBytes(kCapacity), 384 + kCapacity);
  EXPECT_EQ(LongestRecord(kCapacity), kCapacity / 2 - 64);
  EXPECT_EQ(LongestRecord(size_t{1} << 40), UINT32_MAX);
}

TEST_F(RingTest, RecordsComeInTheirOrder) {
  EXPECT_TRUE(Read().empty());
  const std::vector<size_t> sizes = {1, 63, 64, 65, 127, 128, 129, 700};
  for (size_t i = 0; i < sizes.size(); ++i)
    ASSERT_NE(Write(sizes[i], static_cast<int>(i)), nullptr);
  for (size_t i = 0; i < sizes.size(); ++i) ExpectRead(sizes[i], static_cast<int>(i));
  EXPECT_TRUE(Read().empty());
}

TEST_F(RingTest, NothingHappensBeforeCommit) {
  ASSERT_TRUE(writer_.Reserve(100).ok());
  EXPECT_TRUE(Read().empty());
  Write(3, 9);
  ExpectRead(3, 9);
  EXPECT_TRUE(Read().empty());
}

TEST_F(RingTest, BeginsAtTheFrontWhenAllIsReleased) {
  const std::byte* front = Write(100);
  ExpectRead(100, 1);
  for (int i = 0; i < 1000; ++i) {
    EXPECT_EQ(Write(1 + i % 500, i), front);
    ExpectRead(1 + i % 500, i);
  }
  // What is held is not written over, and all else is room.
  for (int i = 0; i < 32; ++i) ASSERT_NE(Write(64, i), nullptr) << i;
  EXPECT_EQ(Write(1), nullptr);
  const Record held = Read();
  EXPECT_EQ(held.data(), front);
  for (int i = 1; i < 32; ++i) ExpectRead(64, i);
  EXPECT_EQ(Write(1), nullptr);
  EXPECT_EQ(held[63], std::byte{0});
  EXPECT_TRUE(reader_.Release(held));
  EXPECT_EQ(Write(1), front);
}

TEST_F(RingTest, TheLongestRecordFitsOnceAllIsReleased) {
  const size_t longest = LongestRecord(kCapacity);
  for (size_t before = 1; before <= longest; before += 64) {
    for (const size_t further : {size_t{0}, size_t{1}, longest / 2, longest}) {
      RingMemory memory(kCapacity);
      RingWriter writer(memory.bytes());
      RingReader reader(memory.bytes());
      for (const size_t bytes : {before, further, longest}) {
        if (bytes == 0) continue;
        const auto place = writer.Reserve(bytes);
        ASSERT_TRUE(place.ok()) << place.status();
        ASSERT_EQ(place->size(), bytes) << before << ", " << further;
        writer.Commit();
        const auto record = reader.Next();
        ASSERT_TRUE(record.ok()) << record.status();
        ASSERT_TRUE(record->has_value());
        reader.Release(**record);
      }
    }
  }
}

TEST_F(RingTest, AFullRingHasNoRoomUntilSomethingIsReleased) {
  for (int i = 0; i < 32; ++i) ASSERT_NE(Write(64, i), nullptr) << i;  // 128 bytes with its header
  EXPECT_EQ(Write(64), nullptr);
  EXPECT_EQ(Write(1), nullptr);
  const Record first = Read();
  EXPECT_TRUE(reader_.Release(first));
  EXPECT_EQ(Write(65), nullptr);
  EXPECT_EQ(Write(64, 32), first.data());
  for (int i = 1; i <= 32; ++i) ExpectRead(64, i);
}

TEST_F(RingTest, ReleaseTellsOnceThatRoomIsWanted) {
  const size_t longest = LongestRecord(kCapacity);
  Write(64);
  EXPECT_FALSE(reader_.Release(Read()));  // nobody waits
  Write(longest);
  const Record held = Read();
  Write(1000);
  Write(1);
  EXPECT_EQ(Write(longest), nullptr);
  EXPECT_TRUE(reader_.Release(held));
  EXPECT_FALSE(reader_.Release(Read()));  // told already
  EXPECT_NE(Write(longest), nullptr);
  EXPECT_FALSE(reader_.Release(Read()));
}

TEST_F(RingTest, IsReleasedInAnyOrder) {
  std::vector<Record> records;
  for (int i = 0; i < 32; ++i) Write(64, i);
  for (int i = 0; i < 32; ++i) records.push_back(Read());
  EXPECT_EQ(reader_.num_held(), 32u);
  EXPECT_EQ(Write(1), nullptr);
  // The room is behind what is still held.
  EXPECT_FALSE(reader_.Release(records[2]));
  EXPECT_FALSE(reader_.Release(records[1]));
  EXPECT_EQ(reader_.num_held(), 30u);
  EXPECT_EQ(Write(1), nullptr);
  EXPECT_TRUE(reader_.Release(records[0]));
  EXPECT_EQ(Write(64 * 6), nullptr);
  EXPECT_EQ(Write(64 * 5, 77), records[0].data());
  for (int i = 31; i > 3; --i) EXPECT_FALSE(reader_.Release(records[i])) << i;
  EXPECT_EQ(records[3][63], std::byte{3});
  EXPECT_TRUE(reader_.Release(records[3]));
  EXPECT_EQ(reader_.num_held(), 0u);
  ExpectRead(64 * 5, 77);
  EXPECT_EQ(reader_.num_held(), 0u);
}

TEST_F(RingTest, RecordsLieInOnePieceWhereverTheyBegin) {
  size_t written = 0, read = 0;
  std::deque<std::pair<size_t, int>> expected;
  for (int i = 0; read < 10'000; ++i) {
    const size_t bytes = 1 + static_cast<size_t>(i) * 7919 % LongestRecord(kCapacity);
    if (Write(bytes, i) != nullptr) {
      expected.emplace_back(bytes, i);
      ++written;
      continue;
    }
    ASSERT_FALSE(expected.empty());
    // Down to one, seldom to none.
    do {
      ExpectRead(expected.front().first, expected.front().second);
      expected.pop_front();
      ++read;
    } while (expected.size() > (i % 10 == 0 ? 0 : 1));
  }
  EXPECT_EQ(written, read + expected.size());
}

TEST_F(RingTest, ReleasingWhatIsNotHeldEndsTheProcess) {
  Write(10);
  const Record record = Read();
  reader_.Release(record);
  EXPECT_DEATH(reader_.Release(record), "check failed");
  EXPECT_DEATH(writer_.Commit(), "check failed");
  EXPECT_DEATH((void)writer_.Reserve(LongestRecord(kCapacity) + 1), "check failed");
}

}  // namespace
}  // namespace conclave::shm

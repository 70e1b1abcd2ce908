// What a faulty or hostile process could leave in a ring: always an error, never a touch of other
// memory (the ring ends at a page that nobody may touch).
#include <gtest/gtest.h>

#include <cstdint>
#include <limits>
#include <random>
#include <string>

#include "shared/shm/ring.h"
#include "tests/shm/ring_memory.h"

namespace conclave::shm {
namespace {

using conclave::testing::RingMemory;

constexpr size_t kCapacity = 4096;
constexpr uint64_t kMost = std::numeric_limits<uint64_t>::max();
constexpr uint32_t kMostLength = std::numeric_limits<uint32_t>::max();
constexpr uint32_t kRecord = 1, kSkip = 2;

// A ring in which the other side may write anything.
struct Ring {
  RingMemory memory{kCapacity};
  RingWriter writer{memory.bytes()};
  RingReader reader{memory.bytes()};

  void Write(size_t bytes) {
    const auto place = writer.Reserve(bytes);
    ASSERT_TRUE(place.ok()) << place.status();
    ASSERT_EQ(place->size(), bytes);
    writer.Commit();
  }
  void ReadAndRelease() {
    const auto record = reader.Next();
    ASSERT_TRUE(record.ok()) << record.status();
    ASSERT_TRUE(record->has_value());
    reader.Release(**record);
  }
  void SetHead(uint64_t head) { memory.Poke(RingMemory::kHead, head); }
  void SetFront(uint64_t front) { memory.Poke(RingMemory::kFront, front); }
  void SetTail(uint64_t tail) { memory.Poke(RingMemory::kTail, tail); }
  void SetHeader(size_t offset, uint32_t length, uint32_t kind) {
    memory.Poke(RingMemory::kRecords + offset, length);
    memory.Poke(RingMemory::kRecords + offset + 4, kind);
  }
};

void ExpectReaderRefuses(Ring& ring, const std::string& why) {
  const auto record = ring.reader.Next();
  ASSERT_EQ(record.status().code(), absl::StatusCode::kInternal) << why;
  EXPECT_NE(record.status().message().find(why), std::string::npos) << record.status();
  EXPECT_EQ(ring.reader.num_held(), 0u);
  // For ever, whatever comes.
  ring.SetHead(128);
  ring.SetHeader(0, 1, kRecord);
  EXPECT_EQ(ring.reader.Next().status(), record.status());
}

TEST(RingFaultTest, ReadsWhatIsMadeByHandWhenItIsRight) {
  Ring ring;
  ring.SetHeader(0, 64, kRecord);
  ring.SetHead(128);
  const auto record = ring.reader.Next();
  ASSERT_TRUE(record.ok()) << record.status();
  EXPECT_EQ((*record)->size(), 64u);
}

TEST(RingFaultTest, RefusesHeadsThatCannotBe) {
  for (const uint64_t head : {uint64_t{1}, uint64_t{63}, uint64_t{129}, uint64_t{kCapacity + 64},
                              uint64_t{1} << 63, kMost - 63, kMost}) {
    Ring ring;
    ring.Write(64);
    ring.SetHead(head);
    ExpectReaderRefuses(ring, "where a multiple of 64 from 0 to 4096 was expected");
  }
  // After what was committed and released before.
  for (const uint64_t head : {0, 64, 129, 4096 + 192}) {
    Ring ring;
    ring.Write(64);
    ring.ReadAndRelease();
    ring.SetHead(head);
    ExpectReaderRefuses(ring, "where a multiple of 64 from 128 to 4224 was expected");
  }
}

TEST(RingFaultTest, RefusesFrontsThatCannotBe) {
  for (const uint64_t front : {uint64_t{64}, uint64_t{128}, uint64_t{1}, kMost - 63}) {
    Ring ring;
    ring.Write(64);
    ring.SetFront(front);
    ExpectReaderRefuses(ring, "lies at the front, where 0 or 0 was expected");
  }
  for (const uint64_t front : {64, 127, 256}) {
    Ring ring;
    ring.Write(64);
    ring.ReadAndRelease();
    ring.Write(64);
    ring.SetFront(front);
    ExpectReaderRefuses(ring, "lies at the front, where 0 or 128 was expected");
  }
  // While something is held, there is no other front than before.
  Ring ring;
  ring.Write(64);
  const auto held = ring.reader.Next();
  ASSERT_TRUE(held.ok() && held->has_value());
  ring.Write(64);
  ring.SetFront(128);
  const auto record = ring.reader.Next();
  EXPECT_EQ(record.status().code(), absl::StatusCode::kInternal) << record.status();
}

TEST(RingFaultTest, CountsWhatIsHeldAsCommitted) {
  Ring ring;
  ring.Write(64);
  const auto held = ring.reader.Next();
  ASSERT_TRUE(held.ok() && held->has_value());
  ring.SetHead(kCapacity + 64);  // would lie over the held record
  const auto record = ring.reader.Next();
  EXPECT_EQ(record.status().code(), absl::StatusCode::kInternal);
  EXPECT_NE(record.status().message().find("from 128 to 4096 was expected"), std::string::npos)
      << record.status();
  // What was read before is still good.
  EXPECT_FALSE(ring.reader.Release(**held));
  EXPECT_EQ(ring.reader.num_held(), 0u);
}

TEST(RingFaultTest, RefusesHeadersThatCannotBe) {
  struct Case {
    uint32_t length, kind;
    uint64_t head;
  };
  const uint32_t longest = static_cast<uint32_t>(LongestRecord(kCapacity));
  for (const Case& bad :
       {Case{64, 0, 128}, Case{64, 3, 128}, Case{64, kMostLength, 128}, Case{0, kRecord, 64},
        Case{1, kRecord, 64}, Case{65, kRecord, 128}, Case{kMostLength, kRecord, 128},
        Case{kMostLength, kRecord, kCapacity}, Case{kMostLength - 63, kRecord, kCapacity},
        Case{longest + 1, kRecord, kCapacity}, Case{0, 0, kCapacity},
        // Already at the front.
        Case{0, kSkip, 128}, Case{0, kSkip, kCapacity}}) {
    Ring ring;
    ring.SetHeader(0, bad.length, bad.kind);
    ring.SetHead(bad.head);
    ExpectReaderRefuses(ring, "what the writer left at 0 of");
  }
  Ring ring;
  ring.SetHeader(0, longest, kRecord);
  ring.SetHead(kCapacity);
  EXPECT_TRUE(ring.reader.Next().ok());
}

// A ring whose next record begins 64 bytes before its end.
void FillToLastLine(Ring& ring) {
  ring.Write(LongestRecord(kCapacity));
  ring.Write(LongestRecord(kCapacity) - 64);
  ring.ReadAndRelease();
  ring.ReadAndRelease();
}

TEST(RingFaultTest, RefusesRecordsOverTheEnd) {
  const size_t last = kCapacity - 64;
  {
    Ring ring;
    FillToLastLine(ring);
    ring.SetHeader(last, 1, kRecord);
    ring.SetHead(kCapacity + 64);
    ExpectReaderRefuses(ring, "what the writer left at 4032 of 4160 is no record");
  }
  Ring ring;
  FillToLastLine(ring);
  ring.SetHeader(last, 0, kSkip);
  ring.SetHeader(0, 1, kRecord);
  ring.SetHead(kCapacity + 128);
  EXPECT_TRUE(ring.reader.Next().ok());
}

TEST(RingFaultTest, RefusesSkipsThatCannotBe) {
  const size_t last = kCapacity - 64;
  struct Case {
    uint32_t skip_length, length, kind;
    uint64_t head;
  };
  for (const Case& bad : {
           Case{1, 1, kRecord, kCapacity + 128},  // it has bytes
           Case{kMostLength, 1, kRecord, kCapacity + 128},
           Case{0, 1, kRecord, kCapacity},         // nothing follows
           Case{0, 0, kSkip, kCapacity + 128},     // another one follows
           Case{0, 65, kRecord, kCapacity + 128},  // more follows than is committed
           Case{0, 0, 0, kCapacity + 128},
       }) {
    Ring ring;
    FillToLastLine(ring);
    ring.SetHeader(last, bad.skip_length, kSkip);
    ring.SetHeader(0, bad.length, bad.kind);
    ring.SetHead(bad.head);
    ExpectReaderRefuses(ring, "what the writer left at 40");
  }
}

void ExpectWriterRefuses(Ring& ring, uint64_t right_tail) {
  const auto place = ring.writer.Reserve(1);
  ASSERT_EQ(place.status().code(), absl::StatusCode::kInternal);
  EXPECT_NE(place.status().message().find("the reader says"), std::string::npos) << place.status();
  ring.SetTail(right_tail);
  EXPECT_EQ(ring.writer.Reserve(1).status(), place.status());
}

TEST(RingFaultTest, RefusesTailsThatCannotBe) {
  for (const uint64_t tail : {uint64_t{1}, uint64_t{64}, uint64_t{kCapacity}, kMost - 63, kMost}) {
    Ring ring;
    ring.SetTail(tail);
    ExpectWriterRefuses(ring, 0);
  }
  for (const uint64_t tail : {0, 64, 127, 129, 192, 256 + 64, 4096}) {
    Ring ring;
    ring.Write(64);
    ring.Write(64);
    ring.ReadAndRelease();
    ASSERT_TRUE(ring.writer.Reserve(1).ok());  // knows of 128 bytes released, of 256
    if (tail == 192) continue;                 // within a record, which only the reader can know
    ring.SetTail(tail);
    ExpectWriterRefuses(ring, 128);
  }
}

// A full ring is looked at twice; the second look is checked as well.
TEST(RingFaultTest, RefusesTailsInAFullRing) {
  Ring ring;
  ring.Write(LongestRecord(kCapacity));
  ring.Write(LongestRecord(kCapacity));
  const auto none = ring.writer.Reserve(1);
  ASSERT_TRUE(none.ok()) << none.status();
  EXPECT_TRUE(none->empty());
  ring.SetTail(kCapacity + 64);
  ExpectWriterRefuses(ring, kCapacity);
}

TEST(RingFaultTest, NeverLeavesItsMemoryWhateverIsThere) {
  std::mt19937_64 random(17);
  const auto any_of = [&](auto... values) {
    const uint64_t all[] = {static_cast<uint64_t>(values)...};
    return all[random() % sizeof...(values)];
  };
  int records = 0, errors = 0;
  for (int round = 0; round < 20'000; ++round) {
    Ring ring;
    for (size_t line = 0; line < kCapacity; line += 64) {
      ring.SetHeader(line, static_cast<uint32_t>(any_of(0, 1, 64, 65, random() % 2048, random())),
                     static_cast<uint32_t>(any_of(kRecord, kRecord, kRecord, kSkip, random() % 4)));
    }
    uint64_t head = 0;
    for (int step = 0; step < 20; ++step) {
      const uint64_t before = head;
      head += any_of(64, 128, 1984, random() % 64 * 64);
      ring.SetHead(any_of(head, head, head, head, head, head, random()));
      if (random() % 8 == 0) ring.SetFront(any_of(before, before, head, random()));
      const auto record = ring.reader.Next();
      if (!record.ok()) {
        ++errors;
        break;
      }
      if (!record->has_value()) continue;
      ++records;
      const std::span<std::byte> all = ring.memory.bytes();
      const std::span<const std::byte> found = **record;
      ASSERT_GE(found.data(), all.data() + RingMemory::kRecords + 64);
      ASSERT_LE(found.data() + found.size(), all.data() + all.size());
      if (random() % 4 != 0) ring.reader.Release(found);
    }
  }
  EXPECT_GT(records, 1000);
  EXPECT_GT(errors, 1000);
}

}  // namespace
}  // namespace conclave::shm

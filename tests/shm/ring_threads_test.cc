// A ring between two threads, each with a doorbell, and between two processes.
#include <gtest/gtest.h>

#include <chrono>
#include <optional>
#include <random>
#include <thread>
#include <vector>

#include "shared/shm/doorbell.h"
#include "shared/shm/ring.h"
#include "shared/shm/shared_memory.h"
#include "tests/shm/child.h"
#include "tests/shm/ring_memory.h"

namespace conclave::shm {
namespace {

using conclave::testing::Child;
using conclave::testing::RingMemory;
using Record = std::span<const std::byte>;

// Who waits so long was not woken.
constexpr Duration kForever = std::chrono::seconds(60);

struct Traffic {
  std::span<std::byte> memory;
  Doorbell& record_bell;  // the reader's
  Doorbell& room_bell;    // the writer's
  size_t longest;
  int num_records;
  size_t most_held;
};

size_t SizeOf(const Traffic& traffic, uint32_t index) {
  return 1 + index * 2654435761u % traffic.longest;
}
std::byte ByteOf(uint32_t index, size_t i) { return static_cast<std::byte>(index * 31 + i * 7); }

// False when it failed, or was not woken.
bool WriteAll(const Traffic& traffic) {
  RingWriter writer(traffic.memory);
  for (int index = 0; index < traffic.num_records; ++index) {
    while (true) {
      const uint32_t seen = traffic.room_bell.Look();
      const auto place = writer.Reserve(SizeOf(traffic, index));
      if (!place.ok()) return false;
      if (!place->empty()) {
        for (size_t i = 0; i < place->size(); ++i) (*place)[i] = ByteOf(index, i);
        break;
      }
      const auto begin = std::chrono::steady_clock::now();
      traffic.room_bell.Wait(seen, kForever);
      if (std::chrono::steady_clock::now() - begin >= kForever) return false;
    }
    writer.Commit();
    traffic.record_bell.Ring();
  }
  return true;
}

bool IsRight(const Traffic& traffic, uint32_t index, Record record) {
  if (record.size() != SizeOf(traffic, index)) return false;
  for (size_t i = 0; i < record.size(); ++i) {
    if (record[i] != ByteOf(index, i)) return false;
  }
  return true;
}

// Holds records for a while, and releases them in any order.
bool ReadAll(const Traffic& traffic) {
  RingReader reader(traffic.memory);
  std::mt19937 random(5);
  std::vector<std::pair<uint32_t, Record>> held;
  const auto release_one = [&] {
    const size_t which = random() % held.size();
    const bool right = IsRight(traffic, held[which].first, held[which].second);
    if (reader.Release(held[which].second)) traffic.room_bell.Ring();
    held.erase(held.begin() + static_cast<std::ptrdiff_t>(which));
    return right;
  };
  for (int index = 0; index < traffic.num_records;) {
    const uint32_t seen = traffic.record_bell.Look();
    const auto record = reader.Next();
    if (!record.ok()) return false;
    if (record->has_value()) {
      held.emplace_back(index++, **record);
      if (held.size() > traffic.most_held && !release_one()) return false;
    } else if (!held.empty()) {
      // The writer may wait for what is held.
      if (!release_one()) return false;
    } else {
      const auto begin = std::chrono::steady_clock::now();
      traffic.record_bell.Wait(seen, kForever);
      if (std::chrono::steady_clock::now() - begin >= kForever) return false;
    }
  }
  while (!held.empty()) {
    if (!release_one()) return false;
  }
  return reader.num_held() == 0;
}

void ExpectAllArrives(size_t capacity, size_t longest, int num_records, size_t most_held) {
  RingMemory memory(capacity);
  Doorbell record_bell, room_bell;
  const Traffic traffic{.memory = memory.bytes(),
                        .record_bell = record_bell,
                        .room_bell = room_bell,
                        .longest = longest,
                        .num_records = num_records,
                        .most_held = most_held};
  bool written = false;
  std::thread writer([&] { written = WriteAll(traffic); });
  EXPECT_TRUE(ReadAll(traffic));
  writer.join();
  EXPECT_TRUE(written);
}

TEST(RingThreadsTest, ShortRecordsArriveAsTheyWere) { ExpectAllArrives(65536, 200, 100'000, 8); }

TEST(RingThreadsTest, LongRecordsArriveAsTheyWere) {
  ExpectAllArrives(65536, LongestRecord(65536), 1'000, 3);
}

// Hardly more room than for one: each waits for the other all the time.
TEST(RingThreadsTest, ASmallRingLosesNoWakeUp) {
  ExpectAllArrives(4096, LongestRecord(4096), 20'000, 0);
}

TEST(RingThreadsTest, ProcessesShareARing) {
  constexpr size_t kCapacity = 16384;
  const auto memory = SharedMemory::Create("ring", 2 * sizeof(Doorbell) + RingBytes(kCapacity));
  ASSERT_TRUE(memory.ok()) << memory.status();
  auto* bells = reinterpret_cast<Doorbell*>(memory->bytes().data());
  const Traffic traffic{.memory = memory->bytes().subspan(2 * sizeof(Doorbell)),
                        .record_bell = bells[0],
                        .room_bell = bells[1],
                        .longest = 3000,
                        .num_records = 2'000,
                        .most_held = 2};
  Child child([&] { return WriteAll(traffic); });
  EXPECT_TRUE(ReadAll(traffic));
  EXPECT_EQ(child.Join(), 0);
}

}  // namespace
}  // namespace conclave::shm

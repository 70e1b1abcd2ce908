#include "shared/rpc/host_frames.h"

#include <atomic>
#include <cstring>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace conclave::rpc {
namespace {

// Both sides in one process, over memory that each has mapped.
class HostFramesTest : public ::testing::Test {
 protected:
  HostFramesTest() {
    auto memory = shm::SharedMemory::Create("test-rows", HostFrames::MemoryBytes(offer_));
    EXPECT_TRUE(memory.ok()) << memory.status();
    worker_ = Side(HostFrames::Side::kWorker, Mapped(*memory), engine_bell_);
    engine_ = Side(HostFrames::Side::kEngine, *std::move(memory), worker_bell_);
  }

  static int Copy(int descriptor) { return dup(descriptor); }
  static shm::SharedMemory Mapped(const shm::SharedMemory& memory) {
    auto mapped = shm::SharedMemory::Map(Copy(memory.descriptor()), memory.bytes().size());
    EXPECT_TRUE(mapped.ok()) << mapped.status();
    return *std::move(mapped);
  }
  std::shared_ptr<HostFrames> Side(HostFrames::Side side, shm::SharedMemory memory,
                                   const shm::SharedDoorbell& peer) {
    auto bell = shm::SharedDoorbell::Map(Copy(peer.descriptor()));
    EXPECT_TRUE(bell.ok()) << bell.status();
    return std::make_shared<HostFrames>(side, offer_, std::move(memory), *std::move(bell));
  }

  // Two pieces, of bytes that depend on the seed.
  static OutgoingFrame Frame(size_t bytes, int seed) {
    OutgoingFrame frame;
    for (const size_t part : {bytes / 3, bytes - bytes / 3}) {
      FrameBuffer piece(part);
      for (size_t i = 0; i < part; ++i) piece.data[i] = static_cast<std::byte>(seed + i % 251);
      frame.push_back(std::move(piece));
    }
    return frame;
  }
  static void ExpectFrame(const ReceivedMessage& message, size_t bytes, int seed) {
    ASSERT_EQ(message.bytes().size(), bytes);
    const OutgoingFrame wanted = Frame(bytes, seed);
    const std::byte* at = message.bytes().Contiguous(0, bytes);
    ASSERT_NE(at, nullptr);
    for (const FrameBuffer& piece : wanted) {
      EXPECT_EQ(std::memcmp(at, piece.data.get(), piece.size), 0);
      at += piece.size;
    }
  }
  static ReceivedMessage Next(HostFrames& side) {
    auto message = side.Receive();
    EXPECT_TRUE(message.ok()) << message.status();
    EXPECT_TRUE(message->has_value());
    return **std::move(message);
  }

  const HostOffer offer_ = {.cluster = {},
                            .secret = {},
                            .worker = {},
                            .request_ring_bytes = kLeastRingBytes,
                            .result_ring_bytes = kLeastRingBytes};
  const shm::SharedDoorbell engine_bell_{"test-bell"}, worker_bell_{"test-bell"};
  std::shared_ptr<HostFrames> engine_, worker_;
};

TEST_F(HostFramesTest, FramesGoBothWaysInOrder) {
  for (int i = 0; i < 100; ++i) {
    ASSERT_TRUE(engine_->Send(Frame(3 + i * 97, i)).ok());
    ASSERT_TRUE(worker_->Send(Frame(5 + i * 61, i + 7)).ok());
  }
  for (int i = 0; i < 100; ++i) {
    ExpectFrame(Next(*worker_), 3 + i * 97, i);
    ExpectFrame(Next(*engine_), 5 + i * 61, i + 7);
  }
  EXPECT_FALSE((*worker_->Receive()).has_value());
}

TEST_F(HostFramesTest, SendingRingsTheOtherSide) {
  const uint32_t worker = worker_bell_->Look(), engine = engine_bell_->Look();
  ASSERT_TRUE(engine_->Send(Frame(10, 1)).ok());
  EXPECT_NE(worker_bell_->Look(), worker);
  EXPECT_EQ(engine_bell_->Look(), engine);
}

TEST_F(HostFramesTest, WhatHasNoRoomWaitsInOrder) {
  constexpr size_t kBytes = 1 << 20;
  for (int i = 0; i < 12; ++i) ASSERT_TRUE(engine_->Send(Frame(kBytes, i)).ok());
  EXPECT_GE(engine_->waiting_bytes(), 8 * kBytes);
  for (int i = 0; i < 12; ++i) {
    const uint32_t before = engine_bell_->Look();
    const bool waits = engine_->waiting_bytes() > 0;
    ExpectFrame(Next(*worker_), kBytes, i);
    if (waits) {
      EXPECT_NE(engine_bell_->Look(), before);  // there is room again
    }
    ASSERT_TRUE(engine_->Flush().ok());
  }
  EXPECT_EQ(engine_->waiting_bytes(), 0u);
  // A short one does not overtake.
  for (int i = 0; i < 6; ++i) ASSERT_TRUE(engine_->Send(Frame(kBytes, i)).ok());
  ASSERT_TRUE(engine_->Send(Frame(9, 9)).ok());
  for (int i = 0; i < 6; ++i) {
    ExpectFrame(Next(*worker_), kBytes, i);
    ASSERT_TRUE(engine_->Flush().ok());
  }
  ExpectFrame(Next(*worker_), 9, 9);
}

TEST_F(HostFramesTest, AMessageKeepsItsBytesWhateverComesAfterIt) {
  ASSERT_TRUE(engine_->Send(Frame(1 << 20, 1)).ok());
  const ReceivedMessage held = Next(*worker_);
  for (int i = 0; i < 50; ++i) {
    ASSERT_TRUE(engine_->Send(Frame(300'000, i)).ok());
    ASSERT_TRUE(engine_->Flush().ok());
    auto message = worker_->Receive();
    ASSERT_TRUE(message.ok());
  }
  ExpectFrame(held, 1 << 20, 1);
}

// A side may end before what it received: the memory stays.
TEST_F(HostFramesTest, AMessageOutlivesItsSide) {
  ASSERT_TRUE(engine_->Send(Frame(1000, 3)).ok());
  const ReceivedMessage held = Next(*worker_);
  worker_ = nullptr;
  engine_ = nullptr;
  ExpectFrame(held, 1000, 3);
}

TEST_F(HostFramesTest, TwoThreadsPassAMillionBytesAtATime) {
  constexpr int kFrames = 3000;
  const auto size_of = [](int i) { return static_cast<size_t>(1 + i * 7919 % 200'000); };
  std::thread worker([&] {
    for (int got = 0; got < kFrames;) {
      const uint32_t seen = worker_bell_->Look();
      ASSERT_TRUE(worker_->Flush().ok());
      auto message = worker_->Receive();
      ASSERT_TRUE(message.ok()) << message.status();
      if (!message->has_value()) {
        worker_bell_->Wait(seen, std::chrono::seconds(20));
        continue;
      }
      ASSERT_NO_FATAL_FAILURE(ExpectFrame(**message, size_of(got), got));
      ASSERT_TRUE(worker_->Send(Frame(8, got)).ok());
      ++got;
    }
  });
  int sent = 0;
  for (int got = 0; got < kFrames;) {
    const uint32_t seen = engine_bell_->Look();
    ASSERT_TRUE(engine_->Flush().ok());
    if (sent < kFrames && engine_->waiting_bytes() == 0) {
      ASSERT_TRUE(engine_->Send(Frame(size_of(sent), sent)).ok());
      ++sent;
      continue;
    }
    auto message = engine_->Receive();
    ASSERT_TRUE(message.ok()) << message.status();
    if (!message->has_value()) {
      ASSERT_TRUE(engine_bell_->Wait(seen, std::chrono::seconds(20))) << "a ring was lost";
      continue;
    }
    ExpectFrame(**message, 8, got++);
  }
  worker.join();
}

TEST_F(HostFramesTest, DamagedMemoryIsAnErrorAndNothingElse) {
  auto memory = shm::SharedMemory::Create("test-rows", HostFrames::MemoryBytes(offer_));
  ASSERT_TRUE(memory.ok());
  const std::span<std::byte> bytes = memory->bytes();
  const auto worker = Side(HostFrames::Side::kWorker, Mapped(*memory), engine_bell_);
  const auto engine = Side(HostFrames::Side::kEngine, Mapped(*memory), worker_bell_);
  ASSERT_TRUE(engine->Send(Frame(100, 1)).ok());
  std::memset(bytes.data(), 0xff, 4096);  // the positions
  EXPECT_EQ(worker->Receive().status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(worker->Receive().status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(engine->Send(Frame(100, 1)).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace conclave::rpc

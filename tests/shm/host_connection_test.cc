#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <array>
#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <thread>
#include <utility>
#include <vector>

#include "shared/shm/host_socket.h"
#include "shared/shm/shared_memory.h"
#include "tests/shm/child.h"
#include "tests/support/temp_dir.h"

namespace conclave::shm {
namespace {

using conclave::testing::Child;
using conclave::testing::TempDir;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kForever = seconds(60);

std::span<const std::byte> Bytes(std::string_view text) {
  return std::as_bytes(std::span(text.data(), text.size()));
}
std::string Text(const HostMessage& message) {
  return {reinterpret_cast<const char*>(message.bytes.data()), message.bytes.size()};
}

bool IsOpen(int descriptor) { return fcntl(descriptor, F_GETFD) >= 0; }

size_t NumOpen() {
  return static_cast<size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"),
                                           std::filesystem::directory_iterator()));
}

// Both ends of a connection.
struct Pair {
  explicit Pair(std::array<int, 2> ends = Make()) : one(ends[0]), other(ends[1]) {}
  static std::array<int, 2> Make() {
    std::array<int, 2> ends{-1, -1};
    EXPECT_EQ(socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends.data()), 0);
    return ends;
  }
  HostConnection one, other;
};

TEST(HostConnectionTest, MessagesStayApart) {
  Pair pair;
  ASSERT_TRUE(pair.one.Send(Bytes("first"), {}).ok());
  ASSERT_TRUE(pair.one.Send(Bytes(std::string(HostConnection::kMostBytes, 'x')), {}).ok());
  ASSERT_TRUE(pair.other.Send(Bytes("back"), {}).ok());
  auto message = pair.other.Receive(kForever);
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(Text(*message), "first");
  EXPECT_TRUE(message->descriptors.empty());
  message = pair.other.Receive(milliseconds(0));
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->bytes.size(), HostConnection::kMostBytes);
  message = pair.one.Receive(milliseconds::max());
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(Text(*message), "back");
}

TEST(HostConnectionTest, MemoryPassesToAnotherProcess) {
  const TempDir dir;
  const std::string path = dir.path() / "socket";
  auto listener = HostListener::Listen(path);
  ASSERT_TRUE(listener.ok()) << listener.status();
  Child child([&] {
    auto connection = HostConnection::Connect(path);
    if (!connection.ok()) return false;
    const auto first = SharedMemory::Create("first", 100), second = SharedMemory::Create("b", 200);
    if (!first.ok() || !second.ok()) return false;
    second->bytes()[199] = std::byte{42};
    const std::array descriptors = {first->descriptor(), second->descriptor()};
    if (!connection->Send(Bytes("two"), descriptors).ok()) return false;
    if (!connection->Receive(kForever).ok()) return false;
    return first->bytes()[0] == std::byte{43};
  });
  auto connection = listener->Accept(kForever);
  ASSERT_TRUE(connection.has_value());
  auto message = connection->Receive(kForever);
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(Text(*message), "two");
  ASSERT_EQ(message->descriptors.size(), 2u);
  EXPECT_EQ(fcntl(message->descriptors[0], F_GETFD), FD_CLOEXEC);
  const auto first = SharedMemory::Map(message->descriptors[0], 100);
  const auto second = SharedMemory::Map(message->descriptors[1], 200);
  ASSERT_TRUE(first.ok() && second.ok()) << first.status() << second.status();
  EXPECT_EQ(second->bytes()[199], std::byte{42});
  first->bytes()[0] = std::byte{43};
  ASSERT_TRUE(connection->Send(Bytes("written"), {}).ok());
  EXPECT_EQ(child.Join(), 0);
}

TEST(HostConnectionTest, SendsNothingThatIsTooLong) {
  Pair pair;
  const std::vector<int> descriptors(HostConnection::kMostDescriptors + 1, pair.one.descriptor());
  const std::string bytes(HostConnection::kMostBytes + 1, 'x');
  for (const absl::Status& sent : {pair.one.Send(Bytes(bytes), {}),
                                   pair.one.Send(Bytes("x"), descriptors), pair.one.Send({}, {})}) {
    EXPECT_EQ(sent.code(), absl::StatusCode::kInvalidArgument) << sent;
  }
  EXPECT_EQ(pair.other.Receive(milliseconds(1)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

// Sends what Send refuses.
void SendRaw(int socket, std::string_view bytes, std::vector<int> descriptors) {
  iovec content = {.iov_base = const_cast<char*>(bytes.data()), .iov_len = bytes.size()};
  std::vector<char> control(CMSG_SPACE(descriptors.size() * sizeof(int)));
  msghdr header{};
  header.msg_iov = &content;
  header.msg_iovlen = 1;
  if (!descriptors.empty()) {
    header.msg_control = control.data();
    header.msg_controllen = control.size();
    cmsghdr* part = CMSG_FIRSTHDR(&header);
    part->cmsg_level = SOL_SOCKET;
    part->cmsg_type = SCM_RIGHTS;
    part->cmsg_len = CMSG_LEN(descriptors.size() * sizeof(int));
    std::memcpy(CMSG_DATA(part), descriptors.data(), descriptors.size() * sizeof(int));
  }
  ASSERT_EQ(sendmsg(socket, &header, 0), static_cast<ssize_t>(bytes.size()));
}

TEST(HostConnectionTest, RefusesWhatIsTooLongAndClosesWhatCameWithIt) {
  Pair pair;
  const size_t before = NumOpen();
  const int some = pair.one.descriptor();
  const std::string longer(HostConnection::kMostBytes + 1, 'x');
  SendRaw(some, longer, {});
  SendRaw(some, longer, {some, some});
  SendRaw(some, "x", std::vector<int>(HostConnection::kMostDescriptors + 1, some));
  SendRaw(some, "x", std::vector<int>(100, some));
  for (int i = 0; i < 4; ++i) {
    const auto message = pair.other.Receive(kForever);
    EXPECT_EQ(message.status().code(), absl::StatusCode::kInvalidArgument) << message.status();
    EXPECT_EQ(NumOpen(), before) << i;
  }
  // The next one is received.
  ASSERT_TRUE(pair.one.Send(Bytes("y"), std::array{some, some, some, some}).ok());
  const auto message = pair.other.Receive(kForever);
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(message->descriptors.size(), 4u);
  EXPECT_EQ(NumOpen(), before + 4);
  for (const int descriptor : message->descriptors) close(descriptor);
}

TEST(HostConnectionTest, TakesAMessageOfNoBytesForTheEnd) {
  Pair pair;
  const size_t before = NumOpen();
  SendRaw(pair.one.descriptor(), "", {pair.one.descriptor()});
  EXPECT_EQ(pair.other.Receive(kForever).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(NumOpen(), before);
}

TEST(HostConnectionTest, ReceiveEndsWithItsTimeout) {
  Pair pair;
  const auto begin = std::chrono::steady_clock::now();
  const auto message = pair.one.Receive(milliseconds(30));
  EXPECT_EQ(message.status().code(), absl::StatusCode::kDeadlineExceeded) << message.status();
  EXPECT_GE(std::chrono::steady_clock::now() - begin, milliseconds(29));
  EXPECT_EQ(pair.one.Receive(milliseconds(-5)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
}

TEST(HostConnectionTest, SendNeverBlocks) {
  Pair pair;
  const std::string bytes(HostConnection::kMostBytes, 'x');
  absl::Status sent;
  int num_sent = 0;
  while (sent.ok() && num_sent < 100'000) {
    sent = pair.one.Send(Bytes(bytes), {});
    ++num_sent;
  }
  EXPECT_EQ(sent.code(), absl::StatusCode::kResourceExhausted) << sent;
  EXPECT_GT(num_sent, 8);
}

TEST(HostConnectionTest, WhatWasSentBeforeTheEndIsReceived) {
  Pair pair;
  ASSERT_TRUE(pair.one.Send(Bytes("never read"), {}).ok());
  ASSERT_TRUE(pair.other.Send(Bytes("why"), {}).ok());
  { const HostConnection ended = std::move(pair.other); }
  pair.one.AwaitEnd();
  const auto message = pair.one.Receive(kForever);
  ASSERT_TRUE(message.ok()) << message.status();
  EXPECT_EQ(Text(*message), "why");
  EXPECT_EQ(pair.one.Receive(kForever).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(pair.one.Send(Bytes("x"), {}).code(), absl::StatusCode::kUnavailable);
}

TEST(HostConnectionTest, NoticesTheEndOfAProcess) {
  const TempDir dir;
  const std::string path = dir.path() / "socket";
  auto listener = HostListener::Listen(path);
  ASSERT_TRUE(listener.ok()) << listener.status();
  Child child([&] {
    auto connection = HostConnection::Connect(path);
    if (!connection.ok() || !connection->Send(Bytes("here"), {}).ok()) return false;
    pause();
    return true;
  });
  auto connection = listener->Accept(kForever);
  ASSERT_TRUE(connection.has_value());
  ASSERT_TRUE(connection->Receive(kForever).ok());
  EXPECT_EQ(connection->Receive(milliseconds(1)).status().code(),
            absl::StatusCode::kDeadlineExceeded);
  std::chrono::steady_clock::time_point noticed{};
  std::thread watcher([&] {
    connection->AwaitEnd();
    noticed = std::chrono::steady_clock::now();
  });
  const auto killed = std::chrono::steady_clock::now();
  child.Kill();
  watcher.join();
  EXPECT_GE(noticed, killed);
  EXPECT_LT(noticed - killed, seconds(1));
  EXPECT_EQ(connection->Receive(kForever).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(connection->Send(Bytes("x"), {}).code(), absl::StatusCode::kUnavailable);
}

TEST(HostConnectionTest, AwaitEndReturnsWhenTheOtherSideSpeaks) {
  Pair pair;
  std::thread speaker([&] { EXPECT_TRUE(pair.other.Send(Bytes("x"), {}).ok()); });
  pair.one.AwaitEnd();
  speaker.join();
  EXPECT_TRUE(pair.one.Receive(milliseconds(0)).ok());
}

TEST(HostConnectionTest, ShutdownEndsWhatWaits) {
  Pair first, second;
  std::thread receiver([&] {
    EXPECT_EQ(first.one.Receive(kForever).status().code(), absl::StatusCode::kUnavailable);
  });
  std::thread watcher([&] { second.one.AwaitEnd(); });
  first.one.Shutdown();
  second.one.Shutdown();
  receiver.join();
  watcher.join();
  // At once from now on, and the other side knows.
  second.one.AwaitEnd();
  EXPECT_EQ(second.one.Receive(kForever).status().code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(second.one.Send(Bytes("x"), {}).code(), absl::StatusCode::kUnavailable);
  second.other.AwaitEnd();
  EXPECT_EQ(second.other.Receive(kForever).status().code(), absl::StatusCode::kUnavailable);
}

TEST(HostConnectionTest, IsClosedOnce) {
  int first = -1;
  {
    Pair pair;
    first = pair.one.descriptor();
    const int second = pair.other.descriptor();
    pair.other = std::move(pair.one);
    EXPECT_EQ(pair.other.descriptor(), first);
    { const HostConnection ended = std::move(pair.one); }
    EXPECT_FALSE(IsOpen(second));
    EXPECT_TRUE(IsOpen(first));
  }
  EXPECT_FALSE(IsOpen(first));
}

TEST(HostIdTest, IsTheRunningKernels) {
  std::ifstream file("/proc/sys/kernel/random/boot_id");
  std::string id;
  file >> id;
  EXPECT_EQ(HostId(), id);
  EXPECT_EQ(HostId().size(), 36u);
}

}  // namespace
}  // namespace conclave::shm

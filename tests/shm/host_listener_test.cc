#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#include <chrono>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "shared/shm/host_socket.h"
#include "tests/shm/child.h"
#include "tests/support/temp_dir.h"

namespace conclave::shm {
namespace {

using conclave::testing::Child;
using conclave::testing::TempDir;
using std::chrono::milliseconds;
using std::chrono::seconds;

constexpr milliseconds kForever = seconds(60);
constexpr uid_t kNobody = 65534;

absl::StatusCode ConnectCode(const std::string& path) {
  const auto connection = HostConnection::Connect(path);
  if (!connection.ok()) {
    EXPECT_NE(connection.status().message().find(path), std::string::npos) << connection.status();
  }
  return connection.status().code();
}

absl::StatusCode ListenCode(const std::string& path) {
  const auto listener = HostListener::Listen(path);
  if (!listener.ok()) {
    EXPECT_NE(listener.status().message().find(path), std::string::npos) << listener.status();
  }
  return listener.status().code();
}

// A process of a killed listener.
void LeaveStale(const std::string& path) { ASSERT_EQ(ListenCode(path), absl::StatusCode::kOk); }

void ExpectMeet(HostListener& listener, const std::string& path) {
  auto client = HostConnection::Connect(path);
  ASSERT_TRUE(client.ok()) << client.status();
  auto server = listener.Accept(kForever);
  ASSERT_TRUE(server.has_value());
  ASSERT_TRUE(client->Send(std::as_bytes(std::span("x", 1)), {}).ok());
  EXPECT_TRUE(server->Receive(kForever).ok());
  ASSERT_TRUE(server->Send(std::as_bytes(std::span("x", 1)), {}).ok());
  EXPECT_TRUE(client->Receive(kForever).ok());
  EXPECT_EQ(fcntl(client->descriptor(), F_GETFD), FD_CLOEXEC);
  EXPECT_EQ(fcntl(server->descriptor(), F_GETFD), FD_CLOEXEC);
}

TEST(HostListenerTest, MeetsAtAPath) {
  const TempDir dir;
  const std::string path = dir.path() / "socket";
  auto listener = HostListener::Listen(path);
  ASSERT_TRUE(listener.ok()) << listener.status();
  EXPECT_EQ(listener->path(), path);
  ExpectMeet(*listener, path);
  ExpectMeet(*listener, path);
}

TEST(HostListenerTest, TakesTheLongestPaths) {
  const TempDir dir;
  std::filesystem::path folder = dir.path();
  while (folder.native().size() < 1000) folder /= std::string(200, 'd');
  std::filesystem::create_directories(folder);
  const std::string path = folder / std::string(255, 's');
  auto listener = HostListener::Listen(path);
  ASSERT_TRUE(listener.ok()) << listener.status();
  ExpectMeet(*listener, path);
  EXPECT_EQ(ListenCode(path), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ListenCode(folder / std::string(256, 's')), absl::StatusCode::kUnavailable);
}

TEST(HostListenerTest, TakesRelativePaths) {
  const TempDir dir;
  // In a process of its own, whose working folder may change.
  Child child([&] {
    if (chdir(dir.path().c_str()) != 0) return false;
    auto listener = HostListener::Listen("socket");
    return listener.ok() && HostConnection::Connect("./socket").ok() &&
           listener->Accept(kForever).has_value();
  });
  EXPECT_EQ(child.Join(), 0);
}

TEST(HostListenerTest, IsForThisUserAloneWhateverTheUmask) {
  const TempDir dir;
  for (const mode_t mask : {0, 022, 077, 0177}) {
    const std::string path = dir.path() / std::to_string(mask);
    Child child([&] {
      umask(mask);
      return HostListener::Listen(path).ok();
    });
    EXPECT_EQ(child.Join(), 0);
    struct stat file {};
    ASSERT_EQ(stat(path.c_str(), &file), 0);
    EXPECT_EQ(file.st_mode, S_IFSOCK | 0600u) << mask;
  }
}

TEST(HostListenerTest, LeavesNoOtherFile) {
  const TempDir dir;
  const std::string path = dir.path() / "socket";
  const auto num_files = [&] {
    return std::distance(std::filesystem::directory_iterator(dir.path()), {});
  };
  {
    const auto listener = HostListener::Listen(path);
    ASSERT_TRUE(listener.ok()) << listener.status();
    EXPECT_EQ(num_files(), 1);
    EXPECT_EQ(ListenCode(path), absl::StatusCode::kFailedPrecondition);
    EXPECT_EQ(num_files(), 1);
  }
  // Nor when it fails at the last step: a name that is too long.
  EXPECT_EQ(ListenCode(dir.path() / std::string(256, 's')), absl::StatusCode::kUnavailable);
  EXPECT_EQ(num_files(), 1);
}

TEST(HostListenerTest, ConnectTellsWhyNot) {
  const TempDir dir;
  const std::string path = dir.path() / "socket";
  EXPECT_EQ(ConnectCode(path), absl::StatusCode::kNotFound);
  EXPECT_EQ(ConnectCode(dir.path() / "none" / "socket"), absl::StatusCode::kNotFound);
  LeaveStale(path);
  EXPECT_TRUE(std::filesystem::is_socket(path));
  EXPECT_EQ(ConnectCode(path), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ConnectCode(path + "/socket"), absl::StatusCode::kNotFound);
  const std::string file = dir.path() / "file";
  std::ofstream(file) << "text";
  EXPECT_EQ(ConnectCode(file), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ConnectCode(dir.path()), absl::StatusCode::kUnavailable);
}

TEST(HostListenerTest, ReplacesWhatIsStale) {
  const TempDir dir;
  const std::string path = dir.path() / "socket";
  LeaveStale(path);
  auto listener = HostListener::Listen(path);
  ASSERT_TRUE(listener.ok()) << listener.status();
  ExpectMeet(*listener, path);
}

TEST(HostListenerTest, ReplacesNobodyWhoListens) {
  const TempDir dir;
  const std::string path = dir.path() / "socket";
  auto listener = HostListener::Listen(path);
  ASSERT_TRUE(listener.ok()) << listener.status();
  Child child([&] { return ListenCode(path) == absl::StatusCode::kFailedPrecondition; });
  EXPECT_EQ(child.Join(), 0);
  // Who asked came by and is gone.
  const auto asked = listener->Accept(kForever);
  ASSERT_TRUE(asked.has_value());
  ExpectMeet(*listener, path);
  // Nor when many wait already.
  ASSERT_EQ(listen(listener->descriptor(), 1), 0);
  std::vector<HostConnection> waiting;
  absl::Status full;
  while (full.ok() && waiting.size() < 100) {
    auto connection = HostConnection::Connect(path);
    full = connection.status();
    if (connection.ok()) waiting.push_back(*std::move(connection));
  }
  EXPECT_EQ(full.code(), absl::StatusCode::kUnavailable) << full;
  EXPECT_EQ(ListenCode(path), absl::StatusCode::kFailedPrecondition);
}

TEST(HostListenerTest, ReplacesNothingThatIsNoSocket) {
  const TempDir dir;
  const std::string path = dir.path() / "file";
  std::ofstream(path) << "text";
  EXPECT_EQ(ListenCode(path), absl::StatusCode::kFailedPrecondition);
  EXPECT_TRUE(std::filesystem::is_regular_file(path));
  EXPECT_EQ(ListenCode(dir.path()), absl::StatusCode::kFailedPrecondition);
}

TEST(HostListenerTest, KnowsSocketsOfAnotherKind) {
  const TempDir dir;
  const std::string path = dir.path() / "stream";
  const HostConnection stream(socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::strncpy(address.sun_path, path.c_str(), sizeof(address.sun_path) - 1);
  ASSERT_EQ(bind(stream.descriptor(), reinterpret_cast<sockaddr*>(&address), sizeof(address)), 0);
  ASSERT_EQ(listen(stream.descriptor(), 5), 0);
  EXPECT_EQ(ConnectCode(path), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ListenCode(path), absl::StatusCode::kFailedPrecondition);
}

TEST(HostListenerTest, SaysWhyItCannotListen) {
  const TempDir dir;
  EXPECT_EQ(ListenCode(dir.path() / "none" / "socket"), absl::StatusCode::kUnavailable);
  EXPECT_EQ(ListenCode(dir.path().string() + "/"), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(ListenCode(""), absl::StatusCode::kUnavailable);
}

TEST(HostListenerTest, AcceptEndsWithItsTimeout) {
  const TempDir dir;
  auto listener = HostListener::Listen(dir.path() / "socket");
  ASSERT_TRUE(listener.ok()) << listener.status();
  const auto begin = std::chrono::steady_clock::now();
  EXPECT_FALSE(listener->Accept(milliseconds(30)).has_value());
  EXPECT_GE(std::chrono::steady_clock::now() - begin, milliseconds(29));
  EXPECT_FALSE(listener->Accept(milliseconds(0)).has_value());
}

// Without that, a process that has no descriptors left would do nothing else.
TEST(HostListenerTest, AcceptWaitsAlsoWhenItCannotTakeWhoIsThere) {
  const TempDir dir;
  const std::string path = dir.path() / "socket";
  auto listener = HostListener::Listen(path);
  ASSERT_TRUE(listener.ok()) << listener.status();
  const auto client = HostConnection::Connect(path);
  ASSERT_TRUE(client.ok()) << client.status();
  rlimit before{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &before), 0);
  const rlimit none = {.rlim_cur = 3, .rlim_max = before.rlim_max};
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
  const auto begin = std::chrono::steady_clock::now();
  const bool accepted = listener->Accept(milliseconds(30)).has_value();
  const auto took = std::chrono::steady_clock::now() - begin;
  ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &before), 0);
  EXPECT_FALSE(accepted);
  EXPECT_GE(took, milliseconds(29));
  EXPECT_TRUE(listener->Accept(kForever).has_value());
}

// Needs a user who may become another one.
TEST(HostListenerTest, KnowsWhoseTheOtherSideIs) {
  const TempDir dir;
  const std::string path = dir.path() / "socket";
  auto listener = HostListener::Listen(path);
  ASSERT_TRUE(listener.ok()) << listener.status();
  if (geteuid() != 0) return;  // the rest needs two users
  std::filesystem::permissions(dir.path(), std::filesystem::perms::all);
  {
    // The mode keeps others out.
    Child stranger([&] {
      return setuid(kNobody) == 0 && ConnectCode(path) == absl::StatusCode::kPermissionDenied;
    });
    EXPECT_EQ(stranger.Join(), 0);
  }
  {
    // And if it did not, they are known: root's listener is anybody's, but not the other way round.
    std::filesystem::permissions(path, std::filesystem::perms::all);
    Child stranger([&] {
      if (setuid(kNobody) != 0) return false;
      auto connection = HostConnection::Connect(path);
      return connection.ok() &&
             connection->Receive(kForever).status().code() == absl::StatusCode::kUnavailable;
    });
    EXPECT_FALSE(listener->Accept(milliseconds(200)).has_value());
    EXPECT_EQ(stranger.Join(), 0);
  }
  const std::string theirs = dir.path() / "theirs";
  int ready[2];
  ASSERT_EQ(pipe(ready), 0);
  Child stranger([&] {
    if (setuid(kNobody) != 0) return false;
    const auto their_listener = HostListener::Listen(theirs);
    if (!their_listener.ok() || write(ready[1], "x", 1) != 1) return false;
    pause();
    return true;
  });
  close(ready[1]);
  char said = 0;
  ASSERT_EQ(read(ready[0], &said, 1), 1);
  close(ready[0]);
  EXPECT_EQ(ConnectCode(theirs), absl::StatusCode::kPermissionDenied);
}

}  // namespace
}  // namespace conclave::shm

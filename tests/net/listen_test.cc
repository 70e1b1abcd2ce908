#include "shared/net/listen.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cstring>
#include <fstream>

#include "tests/support/temp_dir.h"

namespace conclave::net {
namespace {

using conclave::testing::TempDir;
using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

ListenOptions At(const std::string& listen) {
  return {.name = "probe", .listen = listen, .setting = "--listen"};
}

// A listener that is closed at the end of its test.
class Held {
 public:
  explicit Held(const std::string& listen) {
    const auto made = Listen(At(listen));
    EXPECT_TRUE(made.ok()) << made.status();
    if (made.ok()) listener_ = *made;
  }
  ~Held() { close(listener_.descriptor); }
  const Listener* operator->() const { return &listener_; }

 private:
  Listener listener_;
};

bool Connects(const sockaddr* address, socklen_t size) {
  const int fd = socket(address->sa_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
  const bool connected = connect(fd, address, size) == 0;
  close(fd);
  return connected;
}

bool ConnectsByIpv4(int port) {
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_port = htons(static_cast<uint16_t>(port));
  address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  return Connects(reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

bool ConnectsByPath(const std::string& path) {
  sockaddr_un address{};
  address.sun_family = AF_UNIX;
  std::memcpy(address.sun_path, path.data(), path.size());
  return Connects(reinterpret_cast<const sockaddr*>(&address), sizeof(address));
}

std::string Error(const ListenOptions& options, absl::StatusCode code) {
  const absl::Status error = Listen(options).status();
  EXPECT_EQ(error.code(), code) << options.listen << ": " << error;
  return std::string(error.message());
}

TEST(ListenTest, TakesAFreePortAndSaysWhich) {
  const Held held("127.0.0.1:0");
  EXPECT_GT(held->port, 0);
  EXPECT_EQ(held->address, "127.0.0.1:" + std::to_string(held->port));
  EXPECT_EQ(held->family, AF_INET);
  EXPECT_TRUE(ConnectsByIpv4(held->port));
}

TEST(ListenTest, LocalhostIsItsIpv4Address) {
  const Held held("localhost:0");
  EXPECT_EQ(held->address, "localhost:" + std::to_string(held->port));
  EXPECT_EQ(held->family, AF_INET);
  EXPECT_TRUE(ConnectsByIpv4(held->port));
}

TEST(ListenTest, TheIpv6WildcardTakesBoth) {
  const int probe = socket(AF_INET6, SOCK_STREAM, 0);
  if (probe < 0) GTEST_SKIP() << "this system has no IPv6";
  close(probe);
  const Held held("[::]:0");
  EXPECT_EQ(held->address, "[::]:" + std::to_string(held->port));
  EXPECT_EQ(held->family, AF_INET6);
  EXPECT_TRUE(ConnectsByIpv4(held->port));
}

TEST(ListenTest, ListensOnAPathAndReplacesAnOldSocket) {
  const TempDir dir;
  const std::string path = dir.path() / "socket";
  for (int round = 0; round < 2; ++round) {  // the first one's file is still there
    const Held held("unix:" + path);
    EXPECT_EQ(held->port, 0);
    EXPECT_EQ(held->address, "unix:" + path);
    EXPECT_EQ(held->family, AF_UNIX);
    EXPECT_TRUE(ConnectsByPath(path));
  }
}

TEST(ListenTest, WhatIsNoSocketIsNotReplaced) {
  const TempDir dir;
  const std::string path = dir.path() / "file";
  std::ofstream(path) << "precious";
  EXPECT_THAT(Error(At("unix:" + path), absl::StatusCode::kUnavailable),
              AllOf(HasSubstr("probe cannot listen on unix:" + path), HasSubstr("--listen")));
  std::string text;
  std::ifstream(path) >> text;
  EXPECT_EQ(text, "precious");
  Error(At("unix:/" + std::string(200, 'x')), absl::StatusCode::kUnavailable);
  Error(At("unix:" + path + "/none/socket"), absl::StatusCode::kUnavailable);
}

TEST(ListenTest, APortInUseIsNamedAndCannotBeShared) {
  const Held held("127.0.0.1:0");
  EXPECT_THAT(Error(At(held->address), absl::StatusCode::kUnavailable),
              AllOf(HasSubstr("probe cannot listen on " + held->address + ": port " +
                              std::to_string(held->port) + " is in use by another process"),
                    HasSubstr("choose another address with --listen")));
}

TEST(ListenTest, AnAddressOfAnotherHostIsNamed) {
  EXPECT_THAT(Error(At("192.0.2.1:0"), absl::StatusCode::kUnavailable),
              HasSubstr("no network interface of this host has the address 192.0.2.1"));
}

TEST(ListenTest, MalformedAddressesAreRefused) {
  for (const char* listen : {"", "127.0.0.1", "127.0.0.1:", "127.0.0.1:http", "127.0.0.1:70000",
                             ":80", "::1:80", "unix:", "no name:1"}) {
    EXPECT_THAT(Error(At(listen), absl::StatusCode::kInvalidArgument),
                AllOf(HasSubstr("--listen: "), HasSubstr("unix:/path")))
        << listen;
  }
}

TEST(ListenTest, PathsAreForThoseWhoTakeThem) {
  ListenOptions options = At("unix:/tmp/socket");
  options.paths = false;
  EXPECT_THAT(
      Error(options, absl::StatusCode::kInvalidArgument),
      AllOf(HasSubstr("\"unix:/tmp/socket\" is not an address"), Not(HasSubstr("unix:/path"))));
}

}  // namespace
}  // namespace conclave::net

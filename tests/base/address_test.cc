#include "shared/base/address.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

namespace conclave {
namespace {

TEST(ParseAddressTest, ReadsHostAndPort) {
  const auto address = ParseAddress("127.0.0.1:8000");
  ASSERT_TRUE(address.ok());
  EXPECT_EQ(address->host, "127.0.0.1");
  EXPECT_EQ(address->port, 8000);
  EXPECT_EQ(address->ToString(), "127.0.0.1:8000");
}

TEST(ParseAddressTest, ReadsIpv6InBrackets) {
  const auto address = ParseAddress("[::1]:0");
  ASSERT_TRUE(address.ok());
  EXPECT_EQ(address->host, "::1");
  EXPECT_EQ(address->ToString(), "[::1]:0");
}

TEST(ParseAddressTest, RefusesWhatIsNoAddress) {
  for (const char* text :
       {"", "8000", ":8000", "localhost", "localhost:", "localhost:http", "localhost:-1",
        "localhost:65536", "::1:80", "[]:80", "a b:1", "http://x:80", "localhost:80 "}) {
    const auto address = ParseAddress(text);
    EXPECT_EQ(address.status().code(), absl::StatusCode::kInvalidArgument) << text;
    EXPECT_THAT(std::string(address.status().message()), ::testing::HasSubstr(text));
  }
}

TEST(IsLoopbackTest, KnowsTheMachineItself) {
  EXPECT_TRUE(IsLoopback("127.0.0.1"));
  EXPECT_TRUE(IsLoopback("127.8.9.10"));
  EXPECT_TRUE(IsLoopback("::1"));
  EXPECT_TRUE(IsLoopback("localhost"));
  EXPECT_FALSE(IsLoopback("0.0.0.0"));
  EXPECT_FALSE(IsLoopback("::"));
  EXPECT_FALSE(IsLoopback("10.0.0.1"));
  EXPECT_FALSE(IsLoopback("127.0.0.1.example.org"));
  EXPECT_FALSE(IsLoopback("localhost.example.org"));
}

// A listening socket on a free port of 127.0.0.1.
class Listener {
 public:
  Listener() : fd_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    if (bind(fd_, reinterpret_cast<sockaddr*>(&address), size) == 0 && listen(fd_, 1) == 0 &&
        getsockname(fd_, reinterpret_cast<sockaddr*>(&address), &size) == 0) {
      port_ = ntohs(address.sin_port);
    }
  }
  ~Listener() { close(fd_); }
  int port() const { return port_; }

 private:
  const int fd_;
  int port_ = 0;
};

TEST(PortTest, ABusyPortIsNotFreeAndTheNextOneIsTaken) {
  const Listener listener;
  ASSERT_NE(listener.port(), 0);
  EXPECT_FALSE(PortIsFree({"127.0.0.1", listener.port()}));
  const auto port = NearestFreePort({"127.0.0.1", listener.port()});
  ASSERT_TRUE(port.ok());
  EXPECT_GT(*port, listener.port());
}

TEST(PortTest, AnUnknownHostHasNoFreePort) { EXPECT_FALSE(PortIsFree({"no such host", 8000})); }

}  // namespace
}  // namespace conclave

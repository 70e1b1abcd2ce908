// What bodies may take before anybody has answered for them.
#include <gtest/gtest.h>

#include <chrono>

#include "tests/http/server_fixture.h"

namespace conclave::http {
namespace {

constexpr size_t kBody = 90'000;

std::string HeadOf(size_t bytes, const std::string& more = "") {
  return std::string("POST /echo HTTP/1.1\r\n") + kHost + more +
         "Content-Length: " + std::to_string(bytes) + "\r\n\r\n";
}

class ServerBodiesTest : public ServerTest {
 protected:
  void StartNarrow() { Start({.max_body_bytes = 100'000, .max_arriving_bytes = 100'000}); }
  // Whoever sends no "Bearer good" may send no large body.
  void StartGuarded() {
    ServerOptions options;
    options.check_sender = [](std::string_view authorization) -> std::optional<Response> {
      if (authorization == "Bearer good") return std::nullopt;
      return ErrorResponse(
          {.status = 401, .message = "who are you", .type = "t", .param = "", .code = ""});
    };
    Start(std::move(options));
  }
};

TEST_F(ServerBodiesTest, ABodyThatTakesLongGivesWayToOthers) {
  StartNarrow();
  RawClient slow(server_->address());
  slow.Send(HeadOf(kBody) + std::string(60'000, 'x'));
  ExpectServes();
  RawClient other(server_->address());
  other.Send(HeadOf(kBody) + std::string(kBody, 'y'));
  EXPECT_EQ(other.ReadResponse().body.size(), kBody);
  const RawResponse refused = slow.ReadResponse();
  EXPECT_EQ(refused.status, 503);
  EXPECT_NE(refused.body.find("overloaded"), std::string::npos);
  EXPECT_TRUE(slow.WaitForClose());
}

TEST_F(ServerBodiesTest, SmallBodiesNeedNoRoom) {
  StartNarrow();
  RawClient slow(server_->address());
  slow.Send(HeadOf(100'000) + std::string(99'999, 'x'));
  for (int i = 0; i < 10; ++i) {
    RawClient small(server_->address());
    small.Send(Post("/echo", std::string(kFreeBodyBytes, 'y')));
    EXPECT_EQ(small.ReadResponse().status, 200);
  }
  slow.Send("x");
  EXPECT_EQ(slow.ReadResponse().status, 200);
}

TEST_F(ServerBodiesTest, TheRoomIsFreeAgainAfterwards) {
  StartNarrow();
  RawClient client(server_->address());
  for (int i = 0; i < 5; ++i) {
    client.Send(HeadOf(kBody) + std::string(kBody, 'y'));
    EXPECT_EQ(client.ReadResponse().status, 200);
  }
  for (int i = 0; i < 3; ++i) {
    RawClient left(server_->address());
    left.Send(HeadOf(kBody) + std::string(50'000, 'x'));
  }
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  do {
    ExpectServes();  // connections are taken in their order
  } while (server_->num_connections() > 1 && std::chrono::steady_clock::now() < until);
  client.Send(HeadOf(kBody) + std::string(kBody, 'y'));
  EXPECT_EQ(client.ReadResponse().status, 200);
}

TEST_F(ServerBodiesTest, AStrangersLargeBodyIsRefusedBeforeItComes) {
  StartGuarded();
  for (const char* expect : {"", "Expect: 100-continue\r\n"}) {
    RawClient stranger(server_->address());
    stranger.Send(HeadOf(kBody, expect));
    EXPECT_EQ(stranger.ReadResponse().status, 401) << expect;
    EXPECT_TRUE(stranger.WaitForClose());
  }
  RawClient chunked(server_->address());
  chunked.Send(std::string("POST /echo HTTP/1.1\r\n") + kHost +
               "Transfer-Encoding: chunked\r\n\r\nfffff\r\n" + std::string(20'000, 'x'));
  EXPECT_EQ(chunked.ReadResponse().status, 401);
  RawClient known(server_->address());
  known.Send(HeadOf(kBody, "Authorization: Bearer good\r\n") + std::string(kBody, 'y'));
  EXPECT_EQ(known.ReadResponse().body.size(), kBody);
  ExpectServes();  // small ones are the handler's
}

}  // namespace
}  // namespace conclave::http

// What strangers may send, and how long they may take.
#include <gtest/gtest.h>

#include <chrono>
#include <future>
#include <memory>
#include <nlohmann/json.hpp>
#include <random>
#include <vector>

#include "tests/http/server_fixture.h"

namespace conclave::http {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

using ServerLimitsTest = ServerTest;

TEST_F(ServerLimitsTest, RefusesBodiesBeyondTheLimit) {
  Start({.max_body_bytes = 100});
  RawClient exact(server_->address());
  exact.Send(Post("/echo", std::string(100, 'x')));
  EXPECT_EQ(exact.ReadResponse().status, 200);
  RawClient by_length(server_->address());
  by_length.Send(Post("/echo", std::string(101, 'x')));
  const RawResponse refused = by_length.ReadResponse();
  EXPECT_EQ(refused.status, 413);
  EXPECT_NE(refused.body.find("100 bytes"), std::string::npos);
  EXPECT_TRUE(by_length.WaitForClose());
  RawClient by_chunks(server_->address());
  by_chunks.Send(std::string("POST /echo HTTP/1.1\r\n") + kHost +
                 "Transfer-Encoding: chunked\r\n\r\n");
  by_chunks.Send("60\r\n" + std::string(0x60, 'x') + "\r\n60\r\n" + std::string(0x60, 'x') +
                 "\r\n");
  EXPECT_EQ(by_chunks.ReadResponse().status, 413);
  RawClient huge(server_->address());
  huge.Send(std::string("POST /echo HTTP/1.1\r\n") + kHost +
            "Content-Length: 99999999999999999999999\r\n\r\n");
  EXPECT_EQ(huge.ReadResponse().status, 400);
  ExpectServes();
}

TEST_F(ServerLimitsTest, RefusesHeadersBeyondTheLimit) {
  Start({.max_header_bytes = 1024});
  RawClient client(server_->address());
  client.Send(std::string("GET /path/a HTTP/1.1\r\n") + kHost + "X: " + std::string(2000, 'x') +
              "\r\n\r\n");
  EXPECT_EQ(client.ReadResponse().status, 431);
  RawClient endless(server_->address());
  endless.Send(std::string(2000, 'A'));
  EXPECT_EQ(endless.ReadResponse().status, 431);
  ExpectServes();
}

TEST_F(ServerLimitsTest, RefusesMalformedRequests) {
  Start();
  for (const char* text :
       {"\x16\x03\x01\x02garbage\r\n\r\n", "GET\r\n\r\n",
        "GET / HTTP/9.9\r\nHost: localhost\r\n\r\n",
        "GET /path/a HTTP/1.1\r\nHost: localhost\r\nBad Header\r\n\r\n",
        "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", "OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "GET http://localhost/path/a HTTP/1.1\r\nHost: localhost\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nContent-Length: "
        "3\r\n\r\nabc",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nTransfer-Encoding: "
        "chunked\r\n\r\n0\r\n\r\n",
        "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"}) {
    RawClient client(server_->address());
    client.Send(text);
    const RawResponse response = client.ReadResponse();
    EXPECT_TRUE(response.status == 400 || response.status == 505)
        << response.status << " for " << text;
    EXPECT_TRUE(nlohmann::json::parse(response.body).at("error").contains("message")) << text;
    EXPECT_TRUE(client.WaitForClose()) << text;
  }
  ExpectServes();
}

// What follows a body of unknown length must not be taken for a request: a proxy may have passed it
// on as a part of that body.
TEST_F(ServerLimitsTest, ParsesNothingAfterABodyOfUnknownLength) {
  Start();
  const auto refuses = [this](const std::string& version, const std::string& headers, int status) {
    RawClient client(server_->address());
    client.Send("POST /echo " + version + "\r\n" + kHost + headers + "\r\n" +
                Get("/path/smuggled"));
    EXPECT_EQ(client.ReadResponse().status, status) << version << " " << headers;
    EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "") << version << " " << headers;
    EXPECT_TRUE(client.WaitForClose()) << version << " " << headers;
  };
  for (const char* coding :
       {"xchunked", "identity", "gzip", "gzip, chunked", "chunked, gzip", "chunked, identity",
        "chunked,chunked", "chunked;a=b", "chunked,", ""}) {
    refuses("HTTP/1.1", std::string("Transfer-Encoding: ") + coding + "\r\n", 501);
  }
  refuses("HTTP/1.1", "Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", 501);
  refuses("HTTP/1.1", "Transfer-Encoding: chunked\r\nTransfer-Encoding: gzip\r\n", 400);
  for (const char* coding : {"chunked", "xchunked"}) {
    const std::string header = std::string("Transfer-Encoding: ") + coding + "\r\n";
    refuses("HTTP/1.0", header, 400);
    refuses("HTTP/1.1", header + "Content-Length: 4\r\n", 400);
    refuses("HTTP/1.1", "Content-Length: 4\r\n" + header, 400);
  }
  ExpectServes();
}

TEST_F(ServerLimitsTest, RefusesLongLinesBetweenChunks) {
  Start({.max_header_bytes = 1024});
  for (const std::string& body :
       {"2;" + std::string(20'000, 'a'), "2\r\n{}\r\n0\r\nX: " + std::string(20'000, 'a')}) {
    RawClient client(server_->address());
    client.Send(std::string("POST /echo HTTP/1.1\r\n") + kHost +
                "Transfer-Encoding: chunked\r\n\r\n" + body);
    const RawResponse refused = client.ReadResponse();
    EXPECT_EQ(refused.status, 400);
    EXPECT_NE(refused.body.find("larger than 1024 bytes"), std::string::npos) << refused.body;
    EXPECT_TRUE(client.WaitForClose());
  }
  ExpectServes();
}

TEST_F(ServerLimitsTest, RefusesTwoKeys) {
  Start();
  RawClient client(server_->address());
  client.Send(std::string("GET /path/x HTTP/1.1\r\n") + kHost +
              "Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n");
  EXPECT_EQ(client.ReadResponse().status, 400);
}

TEST_F(ServerLimitsTest, TakesChunkedInAnyCase) {
  Start();
  RawClient client(server_->address());
  client.Send(std::string("POST /echo HTTP/1.1\r\n") + kHost +
              "Transfer-Encoding:  CHUNKed \r\n\r\n1\r\nx\r\n0\r\n\r\n" + Get("/path/next"));
  EXPECT_EQ(client.ReadResponse().body, "x");
  EXPECT_EQ(client.ReadResponse().body, "/path/next|");
}

TEST_F(ServerLimitsTest, RefusesCompressedBodies) {
  Start();
  const auto answer = [this](const std::string& headers) {
    RawClient client(server_->address());
    client.Send(std::string("POST /echo HTTP/1.1\r\n") + kHost + headers +
                "Content-Length: 2\r\n\r\nhi");
    return client.ReadResponse();
  };
  EXPECT_EQ(answer("Content-Encoding: Identity\r\n").body, "hi");
  for (const char* headers : {"Content-Encoding: gzip\r\n", "Content-Encoding: identity, br\r\n",
                              "Content-Encoding: identity\r\nContent-Encoding: zstd\r\n"}) {
    EXPECT_EQ(answer(headers).status, 415) << headers;
  }
  EXPECT_NE(answer("Content-Encoding: gzip\r\n").body.find("gzip"), std::string::npos);
}

TEST_F(ServerLimitsTest, SurvivesRandomBytes) {
  Start({.header_timeout = milliseconds(200), .body_timeout = milliseconds(200)});
  std::mt19937 random(7);
  const std::string seed = Post("/echo", "hello") + Get("/path/a?b");
  for (int i = 0; i < 300; ++i) {
    std::string bytes = seed;
    const int changes = 1 + static_cast<int>(random() % 8);
    for (int j = 0; j < changes; ++j) bytes[random() % bytes.size()] = static_cast<char>(random());
    bytes.resize(random() % (bytes.size() + 1));
    RawClient client(server_->address());
    ASSERT_TRUE(client.connected());
    client.Send(bytes);
    client.CloseSendingSide();
    ASSERT_TRUE(client.WaitForClose()) << "round " << i << ": " << testing::PrintToString(bytes);
  }
  ExpectServes();
}

TEST_F(ServerLimitsTest, GivesUpOnHeadersAndBodiesThatDoNotCome) {
  Start({.header_timeout = milliseconds(50), .body_timeout = milliseconds(50)});
  RawClient headers(server_->address());
  headers.Send("GET /path/a HTTP/1.1\r\nX-Slow:");
  EXPECT_EQ(headers.ReadResponse().status, 408);
  EXPECT_TRUE(headers.WaitForClose());
  RawClient body(server_->address());
  body.Send(std::string("POST /echo HTTP/1.1\r\n") + kHost + "Content-Length: 10\r\n\r\nabc");
  EXPECT_EQ(body.ReadResponse().status, 408);
  EXPECT_TRUE(body.WaitForClose());
}

TEST_F(ServerLimitsTest, RefusesRequestsWhenAllWorkersAreBusy) {
  std::promise<void> release;
  std::shared_future<void> released = release.get_future().share();
  std::promise<void> entered;
  auto server =
      Server::Start({.listen = "127.0.0.1:0", .num_workers = 1, .max_queued_requests = 1},
                    {{"GET", "/wait",
                      [&](std::shared_ptr<Exchange> e) {
                        entered.set_value();
                        released.wait();
                        Text(e, "done");
                      }},
                     {"GET", "/next", [](std::shared_ptr<Exchange> e) { Text(e, "next"); }}});
  ASSERT_TRUE(server.ok());
  RawClient running((*server)->address());
  running.Send(Get("/wait"));
  entered.get_future().wait();
  // One of these two waits in the queue, the other is refused.
  RawClient a((*server)->address());
  RawClient b((*server)->address());
  a.Send(Get("/next"));
  b.Send(Get("/next"));
  std::future<int> status_a =
      std::async(std::launch::async, [&] { return a.ReadResponse().status; });
  std::future<int> status_b =
      std::async(std::launch::async, [&] { return b.ReadResponse().status; });
  while (status_a.wait_for(milliseconds(1)) != std::future_status::ready &&
         status_b.wait_for(milliseconds(1)) != std::future_status::ready) {
  }
  release.set_value();
  EXPECT_EQ(status_a.get() + status_b.get(), 200 + 503);
  EXPECT_EQ(running.ReadResponse().body, "done");
}

// A client that sends a byte every few milliseconds, and never stops. How long it is let.
Duration LetTrickle(const std::string& address, const std::string& begin) {
  RawClient client(address);
  const auto from = std::chrono::steady_clock::now();
  client.Send(begin);
  while (!client.Readable(/*timeout_ms=*/5) && client.Send("x")) {
    if (std::chrono::steady_clock::now() - from > seconds(20)) break;
  }
  EXPECT_EQ(client.ReadResponse().status, 408);
  return std::chrono::steady_clock::now() - from;
}

TEST_F(ServerLimitsTest, EveryByteDoesNotBuyMoreTime) {
  Start({.header_timeout = milliseconds(200), .body_timeout = milliseconds(200)});
  EXPECT_LT(LetTrickle(server_->address(), "GET /path/x HTTP/1.1\r\nA: "), seconds(10));
  EXPECT_LT(LetTrickle(server_->address(),
                       "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n"),
            seconds(10));
  EXPECT_LT(LetTrickle(server_->address(),
                       "POST /echo HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: "
                       "chunked\r\n\r\nFFFFF\r\n"),
            seconds(10));
  ExpectServes();
}

TEST_F(ServerLimitsTest, HundredsOfHalfRequestsHoldNobodyUp) {
  Start({.header_timeout = seconds(60), .body_timeout = seconds(60)});
  std::vector<std::unique_ptr<RawClient>> slow;
  for (int i = 0; i < 300; ++i) {
    slow.push_back(std::make_unique<RawClient>(server_->address()));
    slow.back()->Send(
        i % 2 ? "GET /path/x HTTP/1.1\r\nHost: loc"
              : "POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: 9\r\n\r\nha");
  }
  for (int i = 0; i < 20; ++i) ExpectServes();
}

}  // namespace
}  // namespace conclave::http

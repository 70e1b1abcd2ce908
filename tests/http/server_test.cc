#include "shared/http/server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/http/server_fixture.h"

namespace conclave::http {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::Not;

TEST_F(ServerTest, AnswersManyRequestsOnOneConnection) {
  Start();
  RawClient client(server_->address());
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(client.Send(Post("/echo", std::to_string(i))));
    const RawResponse response = client.ReadResponse();
    EXPECT_EQ(response.status, 200);
    EXPECT_EQ(response.body, std::to_string(i));
    EXPECT_EQ(response.headers.at("connection"), "keep-alive");
  }
}

TEST_F(ServerTest, AnswersPipelinedRequestsInOrder) {
  Start();
  RawClient client(server_->address());
  std::string all;
  for (int i = 0; i < 2000; ++i) all += Post("/echo", std::to_string(i)) + "\r\n";
  std::thread sender([&] { client.Send(all); });
  for (int i = 0; i < 2000; ++i) ASSERT_EQ(client.ReadResponse().body, std::to_string(i));
  sender.join();
}

TEST_F(ServerTest, TakesARequestByteByByte) {
  Start();
  RawClient client(server_->address());
  for (const char c : Post("/echo", "slow")) ASSERT_TRUE(client.Send({&c, 1}));
  EXPECT_EQ(client.ReadResponse().body, "slow");
}

TEST_F(ServerTest, TakesChunkedBodies) {
  Start();
  RawClient client(server_->address());
  client.Send(std::string("POST /echo HTTP/1.1\r\n") + kHost +
              "Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n");
  EXPECT_EQ(client.ReadResponse().body, "abcdefg");
}

TEST_F(ServerTest, InvitesABodyThatWaitsForContinue) {
  Start();
  RawClient client(server_->address());
  client.Send(std::string("POST /echo HTTP/1.1\r\n") + kHost +
              "Content-Length: 2\r\nExpect: 100-continue\r\n\r\n");
  EXPECT_EQ(client.ReadUntil("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.Send("hi");
  EXPECT_EQ(client.ReadResponse().body, "hi");
}

TEST_F(ServerTest, AnswersHeadWithoutBody) {
  Start();
  RawClient client(server_->address());
  client.Send("HEAD /path/x HTTP/1.1\r\nHost: localhost\r\n\r\n" + Get("/path/y"));
  EXPECT_EQ(client.ReadResponse(/*head=*/true).headers.at("content-length"), "8");
  EXPECT_EQ(client.ReadResponse().body, "/path/y|");
}

TEST_F(ServerTest, ClosesAfterHttp10AndConnectionClose) {
  Start();
  RawClient old(server_->address());
  old.Send("POST /echo HTTP/1.0\r\nContent-Length: 1\r\n\r\nx");
  EXPECT_EQ(old.ReadResponse().body, "x");
  EXPECT_TRUE(old.WaitForClose());
  RawClient both(server_->address());
  both.Send("GET /path/a HTTP/1.0\r\nConnection: keep-alive\r\nConnection: close\r\n\r\n");
  EXPECT_EQ(both.ReadResponse().headers.at("connection"), "close");
  EXPECT_TRUE(both.WaitForClose());
  RawClient closing(server_->address());
  closing.Send(std::string("GET /path/a HTTP/1.1\r\nConnection: close\r\n") + kHost + "\r\n");
  EXPECT_EQ(closing.ReadResponse().headers.at("connection"), "close");
  EXPECT_TRUE(closing.WaitForClose());
}

TEST_F(ServerTest, FindsCloseInAnyConnectionHeader) {
  Start();
  for (const char* headers :
       {"Connection: upgrade\r\nConnection: close\r\n", "Connection: keep-alive, Close\r\n"}) {
    RawClient client(server_->address());
    client.Send(std::string("GET /path/a HTTP/1.1\r\n") + kHost + headers + "\r\n");
    const RawResponse response = client.ReadResponse();
    EXPECT_EQ(response.status, 200) << headers;
    EXPECT_EQ(response.headers.at("connection"), "close") << headers;
    EXPECT_TRUE(client.WaitForClose()) << headers;
  }
}

TEST_F(ServerTest, DecodesPathsAndRefusesMalformedEscapes) {
  Start();
  RawClient client(server_->address());
  client.Send(Get("/path/a%2Fb%20c?x=%20"));
  EXPECT_EQ(client.ReadResponse().body, "/path/a/b c|x=%20");
  for (const char* path : {"/path/%", "/path/%1", "/path/%zz", "/path/%00"}) {
    client.Send(Get(path));
    EXPECT_EQ(client.ReadResponse().status, 400) << path;
  }
}

TEST_F(ServerTest, RefusesUnknownPathsAndMethods) {
  Start();
  RawClient client(server_->address());
  client.Send(Get("/nothing"));
  const RawResponse missing = client.ReadResponse();
  EXPECT_EQ(missing.status, 404);
  EXPECT_EQ(nlohmann::json::parse(missing.body)["error"]["code"], "not_found");
  client.Send(Get("/echo"));
  const RawResponse wrong = client.ReadResponse();
  EXPECT_EQ(wrong.status, 405);
  EXPECT_EQ(wrong.headers.at("allow"), "POST");
  client.Send("BREW /echo HTTP/1.1\r\nHost: localhost\r\n\r\n");
  EXPECT_EQ(client.ReadResponse().status, 405);
}

TEST_F(ServerTest, RefusesForeignHostAndOrigin) {
  Start();
  const auto status = [this](const std::string& headers) {
    RawClient client(server_->address());
    client.Send("GET /path/a HTTP/1.1\r\n" + headers + "\r\n");
    return client.ReadResponse().status;
  };
  EXPECT_EQ(status("Host: evil.example\r\n"), 403);
  EXPECT_EQ(status("Host: localhost\r\nOrigin: http://evil.example\r\n"), 403);
  EXPECT_EQ(status("Host: localhost:80\r\nOrigin: http://localhost:80\r\n"), 200);
  EXPECT_EQ(status(""), 400);
  EXPECT_EQ(status("Host: localhost\r\nHost: evil.example\r\n"), 400);
  EXPECT_EQ(status("Host: \"\r\n"), 400);
  const std::string own = "Origin: http://localhost\r\n";
  const std::string foreign = "Origin: http://evil.example\r\n";
  EXPECT_EQ(status(kHost + own), 200);
  EXPECT_EQ(status(kHost + own + foreign), 400);
  EXPECT_EQ(status(kHost + foreign + own), 400);
}

TEST_F(ServerTest, AnswersARequestThatItsHandlerDrops) {
  Start();
  RawClient client(server_->address());
  client.Send(Get("/dropped") + Post("/echo", "next"));
  EXPECT_EQ(client.ReadResponse().status, 500);
  EXPECT_EQ(client.ReadResponse().body, "next");
}

TEST_F(ServerTest, RefusesAnAddressInUse) {
  Start();
  const auto second = Server::Start({.listen = server_->address()}, {});
  EXPECT_TRUE(absl::IsUnavailable(second.status())) << second.status();
  EXPECT_THAT(std::string(second.status().message()),
              AllOf(HasSubstr("HTTP server cannot listen on " + server_->address()),
                    HasSubstr(" is in use by another process"), HasSubstr("--http-listen")));
}

TEST_F(ServerTest, RefusesMalformedListenAddresses) {
  for (const char* listen :
       {"", "8000", "localhost:", "127.0.0.1:99999", "no name:1", "127.0.0.1:x", "unix:/socket"}) {
    const absl::Status refused = Server::Start({.listen = listen}, {}).status();
    EXPECT_TRUE(absl::IsInvalidArgument(refused)) << listen << ": " << refused;
    EXPECT_THAT(std::string(refused.message()),
                AllOf(HasSubstr("--http-listen"), Not(HasSubstr("unix:/path"))));
  }
}

TEST_F(ServerTest, ListensByName) {
  const auto server =
      Server::Start({.listen = "localhost:0"},
                    {{"GET", "/", [](std::shared_ptr<Exchange> e) { Text(e, "here"); }}});
  ASSERT_TRUE(server.ok()) << server.status();
  const std::string& address = (*server)->address();
  EXPECT_THAT(address, ::testing::StartsWith("localhost:"));
  RawClient client("127.0.0.1" + address.substr(address.rfind(':')));
  client.Send(Get("/"));
  EXPECT_EQ(client.ReadResponse().body, "here");
}

}  // namespace
}  // namespace conclave::http

#include "shared/http/server.h"

#include <gtest/gtest.h>

#include <future>
#include <nlohmann/json.hpp>
#include <random>
#include <thread>

#include "tests/http/server_fixture.h"

namespace conclave::http {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

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
  RawClient closing(server_->address());
  closing.Send(std::string("GET /path/a HTTP/1.1\r\nConnection: close\r\n") + kHost + "\r\n");
  EXPECT_EQ(closing.ReadResponse().headers.at("connection"), "close");
  EXPECT_TRUE(closing.WaitForClose());
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
}

TEST_F(ServerTest, RefusesBodiesBeyondTheLimit) {
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

TEST_F(ServerTest, RefusesHeadersBeyondTheLimit) {
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

TEST_F(ServerTest, RefusesMalformedRequests) {
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

TEST_F(ServerTest, SurvivesRandomBytes) {
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

TEST_F(ServerTest, GivesUpOnHeadersAndBodiesThatDoNotCome) {
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

TEST_F(ServerTest, ClosesIdleConnections) {
  Start({.idle_timeout = milliseconds(50)});
  RawClient client(server_->address());
  EXPECT_TRUE(client.WaitForClose());
}

TEST_F(ServerTest, RefusesConnectionsBeyondTheLimit) {
  Start({.max_connections = 2});
  RawClient first(server_->address());
  RawClient second(server_->address());
  first.Send(Post("/echo", "1"));
  second.Send(Post("/echo", "2"));
  EXPECT_EQ(first.ReadResponse().body, "1");
  EXPECT_EQ(second.ReadResponse().body, "2");
  RawClient third(server_->address());
  const RawResponse refused = third.ReadResponse();
  EXPECT_EQ(refused.status, 503);
  EXPECT_EQ(nlohmann::json::parse(refused.body)["error"]["code"], "overloaded");
  EXPECT_TRUE(third.WaitForClose());
}

TEST_F(ServerTest, RefusesRequestsWhenAllWorkersAreBusy) {
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

TEST_F(ServerTest, AnswersARequestThatItsHandlerDrops) {
  Start();
  RawClient client(server_->address());
  client.Send(Get("/dropped") + Post("/echo", "next"));
  EXPECT_EQ(client.ReadResponse().status, 500);
  EXPECT_EQ(client.ReadResponse().body, "next");
}

TEST_F(ServerTest, StreamsAsItIsWritten) {
  Start();
  RawClient client(server_->address());
  client.Send(Get("/held"));
  const auto exchange = Held();
  ASSERT_TRUE(exchange);
  exchange->BeginStream({.headers = {{"X-One", "a\r\nX-Two: b"}}, .heartbeat = ""});
  EXPECT_FALSE(exchange->stream_begun());
  EXPECT_TRUE(exchange->Write("data: 1\n\n"));
  const std::string head = client.ReadUntil("data: 1\n\n");
  EXPECT_NE(head.find("Content-Type: text/event-stream\r\n"), std::string::npos);
  EXPECT_NE(head.find("X-One: a  X-Two: b\r\n"), std::string::npos);
  EXPECT_TRUE(exchange->stream_begun());
  EXPECT_TRUE(exchange->Write("data: 2\n\n"));
  EXPECT_NE(client.ReadUntil("data: 2\n\n"), "");
  exchange->Respond({.status = 500});  // too late
  exchange->EndStream();
  EXPECT_FALSE(exchange->Write("late"));
  EXPECT_EQ(client.ReadUntil("0\r\n\r\n"), "\r\n0\r\n\r\n");
  client.Send(Post("/echo", "again"));
  EXPECT_EQ(client.ReadResponse().body, "again");
}

TEST_F(ServerTest, StreamsToHttp10UntilTheConnectionEnds) {
  Start();
  RawClient client(server_->address());
  client.Send("GET /held HTTP/1.0\r\n\r\n");
  const auto exchange = Held();
  ASSERT_TRUE(exchange);
  exchange->BeginStream({});
  exchange->Write("abc");
  exchange->Write("def");
  exchange->EndStream();
  EXPECT_EQ(client.ReadResponse().body, "abcdef");
}

TEST_F(ServerTest, AnEarlyFailureOfAStreamKeepsItsStatus) {
  Start();
  RawClient client(server_->address());
  client.Send(Get("/held"));
  const auto exchange = Held();
  ASSERT_TRUE(exchange);
  exchange->BeginStream({.heartbeat = ": wait\n\n"});
  exchange->Respond(ErrorResponse({.status = 429, .message = "busy"}));
  EXPECT_EQ(client.ReadResponse().status, 429);
}

TEST_F(ServerTest, SendsHeartbeatsWhileNothingIsWritten) {
  Start();
  RawClient client(server_->address());
  client.Send(Get("/held"));
  const auto exchange = Held();
  ASSERT_TRUE(exchange);
  exchange->BeginStream({.heartbeat = ": wait\n\n", .heartbeat_period = milliseconds(20)});
  EXPECT_NE(client.ReadUntil(": wait\n\n"), "");
  EXPECT_NE(client.ReadUntil(": wait\n\n"), "");
  EXPECT_TRUE(exchange->stream_begun());
  exchange->Write("data: x\n\n");
  exchange->EndStream();
  EXPECT_NE(client.ReadUntil("data: x\n\n"), "");
}

TEST_F(ServerTest, TellsWhenTheClientGoes) {
  Start();
  auto client = std::make_unique<RawClient>(server_->address());
  client->Send(Get("/held"));
  const auto exchange = Held();
  ASSERT_TRUE(exchange);
  std::promise<void> gone;
  exchange->OnClientGone([&] { gone.set_value(); });
  client.reset();
  ASSERT_EQ(gone.get_future().wait_for(seconds(10)), std::future_status::ready);
  bool told_late = false;
  exchange->OnClientGone([&] { told_late = true; });
  EXPECT_TRUE(told_late);
  exchange->BeginStream({});
  EXPECT_FALSE(exchange->Write("x"));
}

TEST_F(ServerTest, AnswersAClientThatClosedItsSendingSide) {
  Start();
  RawClient client(server_->address());
  client.Send(Get("/held"));
  client.CloseSendingSide();
  const auto exchange = Held();
  ASSERT_TRUE(exchange);
  std::promise<void> gone;
  exchange->OnClientGone([&] { gone.set_value(); });
  ASSERT_EQ(gone.get_future().wait_for(seconds(10)), std::future_status::ready);
  Text(exchange, "still here");
  EXPECT_EQ(client.ReadResponse().body, "still here");
  EXPECT_TRUE(client.WaitForClose());
}

TEST_F(ServerTest, DoesNotReportClientsOfFinishedAnswers) {
  Start();
  std::atomic<int> calls{0};
  {
    RawClient client(server_->address());
    client.Send(Get("/held"));
    const auto exchange = Held();
    ASSERT_TRUE(exchange);
    exchange->OnClientGone([&] { ++calls; });
    Text(exchange, "done");
    EXPECT_EQ(client.ReadResponse().body, "done");
  }
  server_.reset();
  EXPECT_EQ(calls.load(), 0);
}

TEST_F(ServerTest, GivesUpClientsThatDoNotRead) {
  Start({.max_unsent_bytes = 64 << 10});
  RawClient client(server_->address());
  client.ShrinkReceiveBuffer();
  client.Send(Get("/held"));
  const auto exchange = Held();
  ASSERT_TRUE(exchange);
  std::promise<void> gone;
  exchange->OnClientGone([&] { gone.set_value(); });
  exchange->BeginStream({});
  const std::string chunk(16 << 10, 'x');
  int64_t written = 0;
  while (exchange->Write(chunk)) {
    written += static_cast<int64_t>(chunk.size());
    ASSERT_LT(written, int64_t{1} << 30);
  }
  client.Close();
  EXPECT_EQ(gone.get_future().wait_for(seconds(10)), std::future_status::ready);
  ExpectServes();
}

TEST_F(ServerTest, DisconnectsAClientThatTakesNothing) {
  Start({.max_unsent_bytes = 64 << 20, .write_timeout = milliseconds(100)});
  RawClient client(server_->address());
  client.ShrinkReceiveBuffer();
  client.Send(Get("/held"));
  const auto exchange = Held();
  ASSERT_TRUE(exchange);
  std::promise<void> gone;
  exchange->OnClientGone([&] { gone.set_value(); });
  exchange->BeginStream({});
  exchange->Write(std::string(32 << 20, 'x'));
  EXPECT_EQ(gone.get_future().wait_for(seconds(10)), std::future_status::ready);
}

TEST_F(ServerTest, DrainFinishesWhatRunsAndTakesNothingNew) {
  Start();
  RawClient idle(server_->address());
  idle.Send(Post("/echo", "x"));
  EXPECT_EQ(idle.ReadResponse().body, "x");
  RawClient client(server_->address());
  client.Send(Get("/held"));
  auto exchange = Held();
  ASSERT_TRUE(exchange);
  exchange->BeginStream({});
  exchange->Write("first ");
  std::future<bool> drained =
      std::async(std::launch::async, [&] { return server_->Drain(seconds(10)); });
  EXPECT_TRUE(idle.WaitForClose());
  EXPECT_FALSE(RawClient(server_->address()).connected());
  exchange->Write("last");
  exchange->EndStream();
  EXPECT_EQ(client.ReadResponse().body, "first last");
  client.Close();
  EXPECT_TRUE(drained.get());
}

TEST_F(ServerTest, DrainEndsWithItsGrace) {
  Start();
  RawClient client(server_->address());
  client.Send(Get("/held"));
  auto exchange = Held();
  ASSERT_TRUE(exchange);
  EXPECT_FALSE(server_->Drain(milliseconds(20)));
  server_.reset();  // closes the connection; an exchange may outlive its server
  EXPECT_TRUE(client.WaitForClose());
  Text(exchange, "nobody reads this");
}

TEST_F(ServerTest, RefusesAnAddressInUse) {
  Start();
  const auto second = Server::Start({.listen = server_->address()}, {});
  EXPECT_TRUE(absl::IsUnavailable(second.status())) << second.status();
  EXPECT_NE(second.status().message().find(server_->address()), absl::string_view::npos);
}

TEST_F(ServerTest, RefusesMalformedListenAddresses) {
  for (const char* listen :
       {"", "8000", "localhost:", "127.0.0.1:99999", "no name:1", "127.0.0.1:x"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(Server::Start({.listen = listen}, {}).status())) << listen;
  }
}

}  // namespace
}  // namespace conclave::http

// Answers that are written bit by bit.
#include <gtest/gtest.h>

#include <chrono>
#include <future>

#include "tests/http/server_fixture.h"

namespace conclave::http {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

using ServerStreamsTest = ServerTest;

TEST_F(ServerStreamsTest, StreamsAsItIsWritten) {
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

TEST_F(ServerStreamsTest, StreamsToHttp10UntilTheConnectionEnds) {
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

TEST_F(ServerStreamsTest, AnEarlyFailureOfAStreamKeepsItsStatus) {
  Start();
  RawClient client(server_->address());
  client.Send(Get("/held"));
  const auto exchange = Held();
  ASSERT_TRUE(exchange);
  exchange->BeginStream({.heartbeat = ": wait\n\n"});
  exchange->Respond(ErrorResponse({.status = 429, .message = "busy"}));
  EXPECT_EQ(client.ReadResponse().status, 429);
}

TEST_F(ServerStreamsTest, SendsHeartbeatsWhileNothingIsWritten) {
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

TEST_F(ServerStreamsTest, GivesUpClientsThatDoNotRead) {
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
  EXPECT_EQ(gone.get_future().wait_for(seconds(10)), std::future_status::ready);
  ExpectServes();
}

TEST_F(ServerStreamsTest, DisconnectsAClientThatTakesNothing) {
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

}  // namespace
}  // namespace conclave::http

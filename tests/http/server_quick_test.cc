// Handlers on the I/O thread itself, and what they leave for a worker.
#include <gtest/gtest.h>
#include <pthread.h>

#include "tests/http/server_fixture.h"

namespace conclave::http {
namespace {

using Shared = std::shared_ptr<Exchange>;

std::string ThreadName() {
  char name[16] = {};
  pthread_getname_np(pthread_self(), name, sizeof name);
  return name;
}

// Every answer names the thread that made it.
class ServerQuickTest : public testing::Test {
 protected:
  ServerQuickTest() {
    const Server::Handler on_worker = [](const Shared& e) { Text(e, ThreadName()); };
    auto server = Server::Start(
        {.listen = "127.0.0.1:0"},
        {{"POST", "/quick", on_worker,
          [](const Shared& e) -> Server::Rest {
            Text(e, ThreadName());
            return nullptr;
          }},
         {"POST", "/rest", on_worker,
          [](const Shared& e) -> Server::Rest {
            return [e, begun = ThreadName()] { Text(e, begun + ", " + ThreadName()); };
          }},
         {"POST", "/echo", on_worker,
          [](const Shared& e) -> Server::Rest {
            Text(e, e->request().body);
            return nullptr;
          }},
         {"POST", "/stream", on_worker,
          [](const Shared& e) -> Server::Rest {
            e->BeginStream({.headers = {{"X-A", "b"}}});
            e->Write("one ");
            e->Write("two");
            e->EndStream();
            return nullptr;
          }},
         {"POST", "/dropped", on_worker, [](const Shared&) -> Server::Rest { return nullptr; }},
         {"POST", "/gone", on_worker,
          [this](const Shared& e) -> Server::Rest {
            e->OnClientGone([this] { gone_.TryPush(1); });
            held_.TryPush(Shared(e));
            return nullptr;
          }},
         {"POST", "/count", on_worker,
          [this](const Shared& e) -> Server::Rest {
            if (count_++ == 0) {
              begun_.TryPush(1);
              go_.PopFor(std::chrono::seconds(10));
            }
            Text(e, std::to_string(count_));
            return nullptr;
          }},
         {"POST", "/worker", on_worker}});
    EXPECT_TRUE(server.ok()) << server.status();
    if (server.ok()) server_ = *std::move(server);
  }

  BoundedQueue<int> gone_{16}, begun_{1}, go_{1};
  int count_ = 0;  // the I/O thread's
  BoundedQueue<Shared> held_{16};
  std::unique_ptr<Server> server_;
};

TEST_F(ServerQuickTest, RunsOnTheIoThreadAndLeavesTheRestToAWorker) {
  RawClient client(server_->address());
  client.Send(Post("/quick", "x"));
  EXPECT_EQ(client.ReadResponse().body, "http-io");
  client.Send(Post("/rest", "x"));
  EXPECT_EQ(client.ReadResponse().body, "http-io, http-worker");
  client.Send(Post("/worker", "x"));
  EXPECT_EQ(client.ReadResponse().body, "http-worker");
}

TEST_F(ServerQuickTest, LargeBodiesGoToAWorker) {
  RawClient client(server_->address());
  client.Send(Post("/quick", std::string(kQuickBodyBytes, 'x')));
  EXPECT_EQ(client.ReadResponse().body, "http-io");
  client.Send(Post("/quick", std::string(kQuickBodyBytes + 1, 'x')));
  EXPECT_EQ(client.ReadResponse().body, "http-worker");
}

TEST_F(ServerQuickTest, SendsAWholeStreamAtOnce) {
  RawClient client(server_->address());
  client.Send(Post("/stream", ""));
  EXPECT_EQ(client.ReadUntil("0\r\n\r\n"),
            "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n"
            "X-Content-Type-Options: nosniff\r\nConnection: keep-alive\r\nX-A: b\r\n"
            "Cache-Control: no-cache\r\nTransfer-Encoding: chunked\r\n\r\n7\r\none two\r\n0\r\n"
            "\r\n");
  client.Send("POST /stream HTTP/1.0\r\n\r\n");
  EXPECT_EQ(client.ReadResponse().body, "one two");
}

TEST_F(ServerQuickTest, AnswersPipelinedRequestsInOrder) {
  RawClient client(server_->address());
  constexpr int kRequests = 300;
  std::string all;
  for (int i = 0; i < kRequests; ++i)
    all += Post(i % 3 == 1 ? "/rest" : "/echo", "r" + std::to_string(i));
  client.Send(all);
  for (int i = 0; i < kRequests; ++i) {
    EXPECT_EQ(client.ReadResponse().body,
              i % 3 == 1 ? "http-io, http-worker" : "r" + std::to_string(i));
  }
}

TEST_F(ServerQuickTest, ManyRequestsAtOnceDoNotHoldOthersUp) {
  RawClient many(server_->address());
  RawClient one(server_->address());
  one.Send(Post("/quick", ""));
  ASSERT_EQ(one.ReadResponse().status, 200);
  constexpr int kRequests = 300;
  std::string all;
  for (int i = 0; i < kRequests; ++i) all += Post("/count", "");
  many.Send(all);
  ASSERT_TRUE(begun_.PopFor(std::chrono::seconds(10)));
  one.Send(Post("/count", ""));  // there when the first of the many is answered
  go_.TryPush(1);
  EXPECT_LT(std::stoi(one.ReadResponse().body), 10);
  for (int i = 0; i < kRequests; ++i) EXPECT_EQ(many.ReadResponse().status, 200);
}

TEST_F(ServerQuickTest, AnExchangeWithoutAnAnswerGets500) {
  RawClient client(server_->address());
  client.Send(Post("/dropped", ""));
  EXPECT_EQ(client.ReadResponse().status, 500);
  client.Send(Post("/quick", ""));
  EXPECT_EQ(client.ReadResponse().status, 200);
}

TEST_F(ServerQuickTest, NoticesAClientThatGoesWhileItWaits) {
  RawClient client(server_->address());
  client.Send(Post("/gone", ""));
  const auto exchange = held_.PopFor(std::chrono::seconds(10));
  ASSERT_TRUE(exchange);
  client.Close();
  EXPECT_TRUE(gone_.PopFor(std::chrono::seconds(10)));
}

}  // namespace
}  // namespace conclave::http

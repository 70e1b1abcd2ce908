// How connections come and go.
#include <chrono>
#include <future>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/http/server_fixture.h"
#include "tests/support/wait.h"

namespace conclave::http {
namespace {

using std::chrono::milliseconds;
using std::chrono::seconds;

class ServerConnectionsTest : public ServerTest {
 protected:
  bool WaitForConnections(int32_t count) {
    return conclave::testing::WaitFor([&] { return server_->num_connections() == count; });
  }
};

TEST_F(ServerConnectionsTest, AClientThatClosesFreesItsPlaceAtOnce) {
  Start({.max_connections = 1});
  const auto begin = std::chrono::steady_clock::now();
  for (int i = 0; i < 20; ++i) {
    ASSERT_TRUE(WaitForConnections(0));
    RawClient client(server_->address());
    client.Send(Post("/echo", "here"));
    ASSERT_EQ(client.ReadResponse().status, 200) << "client " << i;
  }
  ASSERT_TRUE(WaitForConnections(0));
  // A place that is kept for a second after its client has gone would make this twenty seconds.
  EXPECT_LT(std::chrono::steady_clock::now() - begin, seconds(5));
}

TEST_F(ServerConnectionsTest, ClosesIdleConnections) {
  Start({.idle_timeout = milliseconds(50)});
  RawClient client(server_->address());
  EXPECT_TRUE(client.WaitForClose());
}

TEST_F(ServerConnectionsTest, RefusesConnectionsBeyondTheLimit) {
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

TEST_F(ServerConnectionsTest, TellsWhenTheClientGoes) {
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

TEST_F(ServerConnectionsTest, AnswersAClientThatClosedItsSendingSide) {
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

// The next answer on the connection must not be taken for the one that is not made either.
TEST_F(ServerConnectionsTest, ClosesWithoutAnAnswerWhenAHandlerDropsAClientThatHasGone) {
  for (const bool stream : {false, true}) {
    Start();
    RawClient client(server_->address());
    client.Send(Get("/held") + Post("/echo", "next"));
    client.CloseSendingSide();
    auto exchange = Held();
    ASSERT_TRUE(exchange);
    std::promise<void> gone;
    exchange->OnClientGone([&] { gone.set_value(); });
    ASSERT_EQ(gone.get_future().wait_for(seconds(10)), std::future_status::ready);
    if (stream) exchange->BeginStream({});
    exchange.reset();
    EXPECT_EQ(client.ReadUntil("\r\n"), "");
    EXPECT_TRUE(client.WaitForClose());
    ExpectServes();
  }
}

TEST_F(ServerConnectionsTest, DoesNotReportClientsOfFinishedAnswers) {
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

TEST_F(ServerConnectionsTest, DrainFinishesWhatRunsAndTakesNothingNew) {
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

TEST_F(ServerConnectionsTest, EndsConnectionsByTheirAnswersAndTakesNewOnes) {
  Start();
  RawClient kept(server_->address());
  kept.Send(Post("/echo", "x"));
  EXPECT_EQ(kept.ReadResponse().body, "x");
  server_->EndAfterAnswers();
  kept.Send(Post("/echo", "y"));
  EXPECT_EQ(kept.ReadResponse().body, "y");
  EXPECT_TRUE(kept.WaitForClose());
  ExpectServes();
}

TEST_F(ServerConnectionsTest, DrainEndsWithItsGrace) {
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

}  // namespace
}  // namespace conclave::http

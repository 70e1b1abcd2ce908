// How requests end early, wait and are refused, and how engines come and go.
#include <gtest/gtest.h>

#include <future>
#include <nlohmann/json.hpp>

#include "tests/gateway/http_api_fixture.h"

namespace conclave::gateway {
namespace {

using HttpLifecycleTest = HttpApiTest;

TEST_F(HttpLifecycleTest, ALostEngineFailsItsRequestsAndIsFoundAgain) {
  Start();
  Hang("The wolf");
  RawClient client(rig_->http_address());
  client.Send(GatewayRig::PostText(kChat, Chat({{"stream", true}}).dump()));
  ASSERT_NE(client.ReadUntil("wolf"), "");
  rig_->engine().BreakStreams();
  const std::string rest = client.ReadUntil("[DONE]");
  EXPECT_NE(rest.find("the connection to engine-0 was lost"), std::string::npos) << rest;
  Say("Again.");
  ASSERT_TRUE(GatewayRig::WaitFor([this] { return rig_->frontend().num_engines() == 1; }));
  EXPECT_EQ(rig_->Post(kChat, Chat()).status, 200);
}

TEST_F(HttpLifecycleTest, AnEngineThatLeavesGetsNoMoreAndIsToldSo) {
  Start();
  Play({.ids = rig_->Ids("The wolf"), .leave = true, .hang_after = true});
  auto client = std::make_unique<RawClient>(rig_->http_address());
  client->Send(GatewayRig::PostText(kChat, Chat({{"stream", true}}).dump()));
  ASSERT_NE(client->ReadUntil("wolf"), "");
  Say("Again.");
  std::future<RawResponse> second =
      std::async(std::launch::async, [this] { return rig_->Post(kChat, Chat()); });
  EXPECT_EQ(second.wait_for(std::chrono::milliseconds(300)), std::future_status::timeout)
      << "an engine that leaves was asked";
  EXPECT_EQ(rig_->engine().num_closed(), 0) << "its sequence was not over";
  client.reset();
  EXPECT_TRUE(GatewayRig::WaitFor([this] { return rig_->engine().num_closed() == 1; }));
  EXPECT_EQ(second.get().status, 200);  // on a new stream
}

TEST_F(HttpLifecycleTest, AClientThatClosesCancelsItsRequest) {
  Start();
  Hang("The wolf");
  for (const bool stream : {true, false}) {
    auto client = std::make_unique<RawClient>(rig_->http_address());
    client->Send(GatewayRig::PostText(kChat, Chat({{"stream", stream}, {"n", 2}}).dump()));
    ASSERT_TRUE(rig_->engine().NextStart().has_value());
    ASSERT_TRUE(rig_->engine().NextStart().has_value());
    client.reset();
    EXPECT_TRUE(rig_->engine().NextCancel().has_value());
    EXPECT_TRUE(rig_->engine().NextCancel().has_value());
    EXPECT_TRUE(GatewayRig::WaitFor([this] { return rig_->frontend().num_running() == 0; }));
  }
}

TEST_F(HttpLifecycleTest, CommentsKeepAWaitingStreamAlive) {
  Start({.heartbeat_period = std::chrono::milliseconds(20)});
  Play({.ids = {}, .hang_after = true});
  RawClient client(rig_->http_address());
  client.Send(GatewayRig::PostText(kChat, Chat({{"stream", true}}).dump()));
  EXPECT_NE(client.ReadUntil(": waiting\n\n"), "");
  EXPECT_NE(client.ReadUntil(": waiting\n\n"), "");
}

TEST_F(HttpLifecycleTest, RefusesMoreRequestsThanPlaces) {
  Start({.max_running = 1, .max_waiting = 0});
  Hang("The wolf");
  RawClient client(rig_->http_address());
  client.Send(GatewayRig::PostText(kChat, Chat({{"stream", true}}).dump()));
  ASSERT_NE(client.ReadUntil("wolf"), "");
  const RawResponse refused = rig_->Post(kChat, Chat());
  EXPECT_EQ(Error(refused, 429)["type"], "rate_limit_error");
  EXPECT_EQ(refused.headers.at("retry-after"), "1");
  client.Close();
  ASSERT_TRUE(GatewayRig::WaitFor([this] { return rig_->frontend().num_running() == 0; }));
  Say("Now.");
  EXPECT_EQ(rig_->Post(kChat, Chat()).status, 200);
}

TEST_F(HttpLifecycleTest, CountsWhatRunsApartFromWhatWaits) {
  Start({.max_running = 1});
  const auto shows = [this](const std::string& line) {
    return GatewayRig::WaitFor([&] {
      return ("\n" + rig_->registry.Expose()).find("\n" + line + "\n") != std::string::npos;
    });
  };
  Hang("The wolf");
  RawClient running(rig_->http_address());
  running.Send(GatewayRig::PostText(kChat, Chat({{"stream", true}}).dump()));
  ASSERT_NE(running.ReadUntil("wolf"), "");
  RawClient waiting(rig_->http_address());
  waiting.Send(GatewayRig::PostText(kChat, Chat({{"stream", true}, {"max_tokens", 5}}).dump()));
  EXPECT_TRUE(shows("conclave_requests_inflight 2"));
  EXPECT_TRUE(shows("conclave_requests_running 1"));
  EXPECT_TRUE(shows(R"(conclave_gateway_queue_requests{class="interactive"} 1)"));
  EXPECT_EQ(rig_->registry.Expose().find(R"(queue_tokens{class="interactive"} 0)"),
            std::string::npos);
  waiting.Close();
  running.Close();
  EXPECT_TRUE(shows("conclave_requests_inflight 0"));
  EXPECT_TRUE(shows("conclave_requests_running 0"));
  EXPECT_TRUE(shows(R"(conclave_gateway_queue_tokens{class="interactive"} 0)"));
}

TEST_F(HttpLifecycleTest, RefusesTheIdOfARunningRequest) {
  Start();
  Hang("The wolf");
  RawClient client(rig_->http_address());
  client.Send(
      GatewayRig::PostText(kChat, Chat({{"stream", true}}).dump(), "x-request-id: twice\r\n"));
  ASSERT_NE(client.ReadUntil("wolf"), "");
  Error(rig_->Post(kChat, Chat(), "x-request-id: twice\r\n"), 409);
}

TEST_F(HttpLifecycleTest, EndsRequestsAtTheirDeadline) {
  Start();
  Hang("The wolf");
  const json error = Error(rig_->Post(kChat, Chat(), "x-request-timeout-ms: 50\r\n"), 504);
  EXPECT_NE(error["message"].get<std::string>().find("time is over"), std::string::npos);
  EXPECT_TRUE(rig_->engine().NextCancel().has_value());
}

TEST_F(HttpLifecycleTest, EndsRequestsWithoutAFirstToken) {
  Start({.first_token_timeout = std::chrono::milliseconds(50)});
  Play({.ids = {}, .hang_after = true});
  Error(rig_->Post(kChat, Chat()), 504);
}

TEST_F(HttpLifecycleTest, IsReadyOnlyWithASteppingEngine) {
  GatewayRig::Options options;
  options.step_age_limit = std::chrono::milliseconds(1200);
  rig_ = std::make_unique<GatewayRig>(options, [](const v1::StartSequence&) { return Script{}; });
  const RawResponse none = rig_->Get("/readyz");
  EXPECT_EQ(none.status, 503);
  EXPECT_EQ(json::parse(none.body)["missing"][0], "no engine is connected");
  EXPECT_EQ(rig_->Get("/livez").status, 200);
  Error(rig_->Post(kChat, Chat()), 503);
  rig_->ConnectEngines();
  EXPECT_EQ(rig_->Get("/readyz").status, 200);

  // It says nothing more, though its stream lives.
  EXPECT_TRUE(GatewayRig::WaitFor([this] {
    return rig_->Get("/readyz").body.find("engine-0 has not stepped for ") != std::string::npos;
  }));
  EXPECT_EQ(rig_->frontend().num_engines(), 1);
  rig_->frontend().OnEngineEvents("engine-0", {}, [] {});
  EXPECT_TRUE(GatewayRig::WaitFor([this] { return rig_->Get("/readyz").status == 200; }));
}

TEST_F(HttpLifecycleTest, IsReadyAsLongAsAnEngineReachesAllExperts) {
  GatewayRig::Options options;
  options.num_engines = 2;
  rig_ = std::make_unique<GatewayRig>(options, [](const v1::StartSequence&) { return Script{}; });
  v1::EngineReach reach;
  v1::LayerExperts* const layer = reach.add_missing();
  layer->set_layer(1);
  layer->add_experts(3);
  // It says so before it is used: not even for a moment the gateway is ready.
  for (int i = 0; i < 2; ++i) rig_->engine(i).SetReach(reach);
  rig_->ConnectEngines();
  const RawResponse none = rig_->Get("/readyz");
  EXPECT_EQ(none.status, 503);
  EXPECT_EQ(json::parse(none.body)["missing"],
            json::parse(R"(["engine-0 reaches no live worker that has layer 1 expert 3",
                            "engine-1 reaches no live worker that has layer 1 expert 3"])"));
  const auto becomes = [this](int status) {
    return GatewayRig::WaitFor([&] { return rig_->Get("/readyz").status == status; });
  };
  rig_->frontend().OnEngineReach("engine-1", {});
  EXPECT_TRUE(becomes(200));
  // Requests go to the one that can serve them, whatever the load.
  for (int i = 0; i < 3; ++i) {
    rig_->Post(kChat, Chat());
    EXPECT_TRUE(rig_->engine(1).NextStart().has_value());
  }
  rig_->frontend().OnEngineReach("engine-1", {{2, 0}});
  EXPECT_TRUE(becomes(503));
  rig_->frontend().OnEngineReach("engine-0", {});
  EXPECT_TRUE(becomes(200));
}

TEST_F(HttpLifecycleTest, SaysThatAnotherClustersEngineHasTakenThePort) {
  GatewayRig::Options options;
  rig_ = std::make_unique<GatewayRig>(options, [](const v1::StartSequence&) { return Script{}; });
  rig_->ConnectEngines();
  const auto missing = [this](const std::string& text) {
    return GatewayRig::WaitFor(
        [&] { return rig_->Get("/readyz").body.find(text) != std::string::npos; });
  };
  rig_->frontend().OnEngineLost("engine-0", rpc::ClusterId("east").Learn("west", "what answers"));
  EXPECT_TRUE(missing("engine-0: what answers belongs to cluster west"));
  rig_->frontend().OnEngineLost("engine-0", absl::UnavailableError("nobody answers"));
  EXPECT_TRUE(missing("no engine is connected"));
}

TEST_F(HttpLifecycleTest, NotesOfTheMembershipHinderNothing) {
  GatewayRig::Options options;
  rig_ = std::make_unique<GatewayRig>(options, [](const v1::StartSequence&) { return Script{}; });
  rig_->ConnectEngines();
  rig_->frontend().SetNote("no controller of this cluster");
  const RawResponse noted = rig_->Get("/readyz");
  EXPECT_EQ(noted.status, 200);
  EXPECT_EQ(json::parse(noted.body)["notes"][0], "no controller of this cluster");
  rig_->frontend().SetNote("");
  EXPECT_FALSE(json::parse(rig_->Get("/readyz").body).contains("notes"));
}

TEST_F(HttpLifecycleTest, RefusesAnEngineWhoseEmbeddingIsTooSmall) {
  GatewayRig::Options options;
  options.hello.set_vocab_size(100);
  rig_ = std::make_unique<GatewayRig>(options, [](const v1::StartSequence&) { return Script{}; });
  rig_->frontend().UpdateCluster(rig_->View());
  EXPECT_TRUE(GatewayRig::WaitFor([this] {
    return rig_->Get("/readyz").body.find("the embedding of engine-0 has 100 rows") !=
           std::string::npos;
  }));
}

TEST_F(HttpLifecycleTest, KeepsApartEnginesOfOneNameAndTwoFingerprints) {
  v1::EngineHello other = TalesHello();
  other.set_fingerprint(std::string(64, 'b'));
  other.set_system_fingerprint("tales-bf16-cpu1-bbbb");
  GatewayRig::Options options;
  options.more_hellos = {other};
  options.fingerprint_hold = std::chrono::milliseconds(300);
  rig_ = std::make_unique<GatewayRig>(options, [this](const v1::StartSequence&) {
    MutexLock lock(mutex_);
    return script_;
  });
  Say("The wolf ran away.");
  rig_->frontend().UpdateCluster(rig_->ViewOf(0, 1));
  ASSERT_TRUE(GatewayRig::WaitFor([this] { return rig_->frontend().num_engines() == 1; }));
  rig_->frontend().UpdateCluster(rig_->View());
  ASSERT_TRUE(GatewayRig::WaitFor([this] {
    return rig_->registry.Expose().find("conclave_engines_refused 1") != std::string::npos;
  }));
  for (int i = 0; i < 10; ++i) {
    const json answer = json::parse(rig_->Post(kChat, Chat()).body);
    EXPECT_EQ(answer["system_fingerprint"], "tales-bf16-cpu1-aaaa");
  }
  EXPECT_EQ(rig_->frontend().num_engines(), 1);
  // When the first one is gone for good, the name passes to the other.
  rig_->StopEngine(0);
  ASSERT_TRUE(GatewayRig::WaitFor([this] {
    const RawResponse response = rig_->Post(kChat, Chat());
    return response.status == 200 &&
           json::parse(response.body)["system_fingerprint"] == "tales-bf16-cpu1-bbbb";
  }));
}

TEST_F(HttpLifecycleTest, SpreadsRequestsOverEngines) {
  Start({.num_engines = 2});
  Hang("The wolf");
  RawClient first(rig_->http_address());
  first.Send(GatewayRig::PostText(kChat, Chat({{"stream", true}}).dump()));
  ASSERT_NE(first.ReadUntil("wolf"), "");
  RawClient second(rig_->http_address());
  second.Send(GatewayRig::PostText(kChat, Chat({{"stream", true}}).dump()));
  ASSERT_NE(second.ReadUntil("wolf"), "");
  EXPECT_TRUE(rig_->engine(0).NextStart().has_value());
  EXPECT_TRUE(rig_->engine(1).NextStart().has_value());
}

TEST_F(HttpLifecycleTest, DrainRefusesNewRequestsAndFinishesRunningOnes) {
  Start();
  Hang("The wolf");
  RawClient client(rig_->http_address());
  client.Send(GatewayRig::PostText(kChat, Chat({{"stream", true}}).dump()));
  ASSERT_NE(client.ReadUntil("wolf"), "");
  std::future<Frontend::Drained> drained = std::async(std::launch::async, [this] {
    return rig_->frontend().Drain(std::chrono::milliseconds(200));
  });
  // A request before the drain began would run, too: only /readyz tells without taking part.
  ASSERT_TRUE(GatewayRig::WaitFor(
      [this] { return rig_->Get("/readyz").body.find("shutting down") != std::string::npos; }));
  EXPECT_EQ(rig_->Post(kChat, Chat()).status, 503);
  const Frontend::Drained found = drained.get();
  EXPECT_EQ(found.running, 1);
  EXPECT_EQ(found.cut_off, 1);
  EXPECT_NE(client.ReadUntil("[DONE]").find("the gateway has shut down"), std::string::npos);
}

TEST_F(HttpLifecycleTest, AnAnsweredRequestIsNotAmongThoseDrained) {
  Start();
  Say("The wolf.");
  for (int i = 0; i < 20; ++i) ASSERT_EQ(rig_->Post(kChat, Chat()).status, 200);
  const Frontend::Drained found = rig_->frontend().Drain(std::chrono::seconds(5));
  EXPECT_EQ(found.running, 0);
  EXPECT_EQ(found.cut_off, 0);
}

}  // namespace
}  // namespace conclave::gateway

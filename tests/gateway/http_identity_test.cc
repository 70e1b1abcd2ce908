// API keys as HTTP and gRPC clients meet them.
#include <grpcpp/create_channel.h>
#include <gtest/gtest.h>

#include <deque>
#include <nlohmann/json.hpp>

#include "conclave/v1/inference.grpc.pb.h"
#include "tests/gateway/http_api_fixture.h"
#include "tests/support/temp_dir.h"

namespace conclave::gateway {
namespace {

using identity::DrawKey;
using identity::DrawnKey;

class HttpIdentityTest : public HttpApiTest {
 protected:
  DrawnKey& Add(const std::string& tenant) {
    keys_.push_back(DrawKey());
    keys_.back().record.tenant = tenant;
    return keys_.back();
  }
  void StartWithKeys(GatewayRig::Options options = {}) {
    const std::string path = dir_.path() / "keys.json";
    for (const DrawnKey& drawn : keys_) file_.keys.push_back(drawn.record);
    ASSERT_TRUE(identity::WriteKeyFile(path, file_).ok());
    auto store = KeyStore::Open(path, &clock_, &registry_);
    ASSERT_TRUE(store.ok()) << store.status();
    store_ = *std::move(store);
    options.keys = store_.get();
    Start(std::move(options));
  }
  ~HttpIdentityTest() override { rig_.reset(); }  // before the keys
  static std::string Header(const DrawnKey& key) {
    return "Authorization: Bearer " + key.text + "\r\n";
  }
  grpc::Status Complete(const std::string& key, v1::CompleteResponse* answer) {
    const auto stub = v1::InferenceService::NewStub(
        grpc::CreateChannel(rig_->grpc_address(), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    if (!key.empty()) context.AddMetadata("authorization", "Bearer " + key);
    v1::GenerateRequest request;
    request.set_text("Once");
    return stub->Complete(&context, request, answer);
  }

  SteadyClock clock_;
  metrics::Registry registry_;
  conclave::testing::TempDir dir_;
  identity::KeyFile file_;
  std::deque<DrawnKey> keys_;
  std::unique_ptr<KeyStore> store_;
};

TEST_F(HttpIdentityTest, NothingButHealthGoesWithoutAKey) {
  StartWithKeys();
  EXPECT_EQ(Error(rig_->Post(kChat, Chat()), 401)["code"], "key_missing");
  EXPECT_EQ(Error(rig_->Post(kChat, Chat(), "Authorization: Bearer sk-x\r\n"), 401)["code"],
            "key_unknown");
  Error(rig_->Post(kCompletions, json{{"prompt", "Once"}}), 401);
  Error(rig_->Post("/tokenize", json{{"prompt", "Once"}}), 401);
  Error(rig_->Post("/detokenize", json{{"tokens", {5}}}), 401);
  for (const char* path : {"/v1/models", "/v1/models/tales"}) Error(rig_->Get(path), 401);
  for (const char* path : {"/livez", "/readyz"}) EXPECT_EQ(rig_->Get(path).status, 200) << path;
  EXPECT_EQ(rig_->Get("/metrics").status, 404);
  EXPECT_FALSE(rig_->engine().StartedNow().has_value());
}

TEST_F(HttpIdentityTest, WithoutAKeyNoLargeBodyIsRead) {
  const DrawnKey& key = Add("acme");
  StartWithKeys();
  const auto head = [](const std::string& authorization) {
    return std::string("POST ") + kChat + " HTTP/1.1\r\nHost: localhost\r\n" + authorization +
           "Content-Type: application/json\r\nExpect: 100-continue\r\nContent-Length: "
           "100000\r\n\r\n";
  };
  RawClient stranger(rig_->http_address());
  stranger.Send(head("Authorization: Bearer cv-00000000-x\r\n"));
  EXPECT_EQ(Error(stranger.ReadResponse(), 401)["code"], "key_unknown");
  RawClient known(rig_->http_address());
  known.Send(head(Header(key)));
  EXPECT_EQ(known.ReadResponse().status, 100);
}

TEST_F(HttpIdentityTest, AKeyOpensEverything) {
  const DrawnKey& key = Add("acme");
  StartWithKeys();
  EXPECT_EQ(rig_->Post(kChat, Chat(), Header(key)).status, 200);
  EXPECT_EQ(rig_->Post("/tokenize", json{{"prompt", "Once"}}, Header(key)).status, 200);
  v1::CompleteResponse answer;
  EXPECT_TRUE(Complete(key.text, &answer).ok());
  EXPECT_EQ(Complete("", &answer).error_code(), grpc::StatusCode::UNAUTHENTICATED);
  EXPECT_EQ(Complete("cv-wrong", &answer).error_code(), grpc::StatusCode::UNAUTHENTICATED);
}

TEST_F(HttpIdentityTest, ASessionWithoutAKeyEndsAtItsFirstMessage) {
  StartWithKeys();
  const auto stub = v1::InferenceService::NewStub(
      grpc::CreateChannel(rig_->grpc_address(), grpc::InsecureChannelCredentials()));
  for (const char* const key : {"", "Bearer cv-wrong"}) {
    grpc::ClientContext context;
    context.set_deadline(std::chrono::system_clock::now() + std::chrono::seconds(20));
    if (*key) context.AddMetadata("authorization", key);
    const auto session = stub->Session(&context);
    ASSERT_TRUE(session->Write(v1::SessionRequest()));  // and the client does not close
    v1::SessionEvent event;
    EXPECT_FALSE(session->Read(&event)) << event.ShortDebugString();
    EXPECT_EQ(session->Finish().error_code(), grpc::StatusCode::UNAUTHENTICATED);
  }
  EXPECT_NE(rig_->registry.Expose().find(
                R"(conclave_tenant_requests_total{code="UNAUTHENTICATED",tenant="none"} 2)"),
            std::string::npos);
}

TEST_F(HttpIdentityTest, ASessionWithAKeyOutlivesItsFailures) {
  const DrawnKey& key = Add("acme");
  StartWithKeys();
  const auto stub = v1::InferenceService::NewStub(
      grpc::CreateChannel(rig_->grpc_address(), grpc::InsecureChannelCredentials()));
  grpc::ClientContext context;
  context.AddMetadata("authorization", "Bearer " + key.text);
  const auto session = stub->Session(&context);
  v1::SessionRequest message;
  ASSERT_TRUE(session->Write(message));
  message.mutable_generate()->set_request_id("good");
  message.mutable_generate()->set_text("Once");
  ASSERT_TRUE(session->Write(message));
  session->WritesDone();
  int failed = 0, done = 0;
  for (v1::SessionEvent event; session->Read(&event);) {
    failed += event.has_failed();
    done += event.generate().has_usage();
  }
  EXPECT_TRUE(session->Finish().ok());
  EXPECT_EQ(failed, 1);
  EXPECT_EQ(done, 1);
}

TEST_F(HttpIdentityTest, LimitsAreToldAndKept) {
  DrawnKey& key = Add("acme");
  key.record.requests_per_minute = 2;
  key.record.tokens_per_minute = 1000;
  const DrawnKey& other = Add("acme");
  StartWithKeys();
  const RawResponse first = rig_->Post(kChat, Chat(), Header(key));
  EXPECT_EQ(first.status, 200);
  EXPECT_EQ(first.headers.at("x-ratelimit-limit-requests"), "2");
  EXPECT_EQ(first.headers.at("x-ratelimit-remaining-requests"), "1");
  EXPECT_EQ(first.headers.at("x-ratelimit-limit-tokens"), "1000");
  EXPECT_EQ(first.headers.at("x-ratelimit-remaining-tokens"), "936")
      << "prompt and answer may fill the context of 64";
  // Tokens that were not used come back at a request's end, a moment after its answer's.
  ASSERT_TRUE(GatewayRig::WaitFor([this] { return rig_->frontend().num_running() == 0; }));
  const RawResponse second = rig_->Post(kChat, Chat({{"stream", true}}), Header(key));
  EXPECT_EQ(second.headers.at("x-ratelimit-remaining-requests"), "0");
  EXPECT_GT(std::stoi(second.headers.at("x-ratelimit-remaining-tokens")), 1000 - 2 * 64);
  const RawResponse refused = rig_->Post(kChat, Chat(), Header(key));
  EXPECT_EQ(Error(refused, 429)["type"], "rate_limit_error");
  EXPECT_GT(std::stoi(refused.headers.at("retry-after")), 20);
  EXPECT_EQ(rig_->Post(kChat, Chat(), Header(other)).status, 200) << "each key has its own";
}

TEST_F(HttpIdentityTest, TokenizingIsARequestToo) {
  DrawnKey& key = Add("acme");
  key.record.requests_per_minute = 2;
  StartWithKeys();
  EXPECT_EQ(rig_->Post("/tokenize", json{{"prompt", "Once"}}, Header(key)).status, 200);
  EXPECT_EQ(rig_->Post("/detokenize", json{{"tokens", {5}}}, Header(key)).status, 200);
  Error(rig_->Post("/tokenize", json{{"prompt", "Once"}}, Header(key)), 429);
  Error(rig_->Post(kChat, Chat(), Header(key)), 429);
}

TEST_F(HttpIdentityTest, TokensCountWhenARequestComes) {
  DrawnKey& key = Add("acme");
  key.record.tokens_per_minute = 60;
  StartWithKeys();
  Hang("The wolf");
  const auto ask = [&](int max_tokens) {
    return GatewayRig::PostText(kCompletions,
                                json{{"prompt", {5, 6, 7, 8, 9, 10, 11, 12, 13, 14}},
                                     {"max_tokens", max_tokens},
                                     {"stream", true}}
                                    .dump(),
                                Header(key));
  };
  RawClient first(rig_->http_address());
  first.Send(ask(30));  // 40 with its prompt
  ASSERT_NE(first.ReadUntil("wolf"), "");
  RawClient second(rig_->http_address());
  second.Send(ask(30));
  const RawResponse refused = second.ReadResponse();
  const json error = Error(refused, 429);
  EXPECT_EQ(error["code"], "rate_limited");
  EXPECT_NE(error["message"].get<std::string>().find("may cost 40 tokens"), std::string::npos);
  EXPECT_GT(std::stoi(refused.headers.at("retry-after")), 0);
  EXPECT_LT(std::stoi(refused.headers.at("x-ratelimit-remaining-tokens")), 40);
  // The first one leaves: what it has not used is there again.
  first.Close();
  ASSERT_TRUE(GatewayRig::WaitFor([this] { return rig_->frontend().num_running() == 0; }));
  RawClient third(rig_->http_address());
  third.Send(ask(30));
  EXPECT_NE(third.ReadUntil("wolf"), "");
}

TEST_F(HttpIdentityTest, ARefusedRequestKeepsNoTokens) {
  DrawnKey& key = Add("acme");
  key.record.tokens_per_minute = 100;
  StartWithKeys();
  // The second prompt is one too many, and the first one's tokens come back.
  const json two = {{"prompt", {{5, 6}, {7, 8}}}, {"max_tokens", 60}};
  for (int i = 0; i < 5; ++i) Error(rig_->Post(kCompletions, two, Header(key)), 429);
  const json one = {{"prompt", {5, 6}}, {"max_tokens", 60}};
  EXPECT_EQ(rig_->Post(kCompletions, one, Header(key)).status, 200);
}

TEST_F(HttpIdentityTest, WhoLeavesBeforeTheFirstTokenPaysForThePrompt) {
  DrawnKey& key = Add("acme");
  key.record.tokens_per_minute = 200;
  StartWithKeys();
  Hang("");
  {
    RawClient client(rig_->http_address());
    const std::string body = Chat({{"stream", true}}).dump();
    client.Send(std::string("POST ") + kChat + " HTTP/1.1\r\nHost: localhost\r\n" + Header(key) +
                "Content-Type: application/json\r\nContent-Length: " + std::to_string(body.size()) +
                "\r\n\r\n" + body);
    ASSERT_TRUE(rig_->engine().NextStart().has_value());
  }
  ASSERT_TRUE(GatewayRig::WaitFor([this] { return rig_->frontend().num_running() == 0; }));
  Say("Now.");
  const RawResponse next = rig_->Post(kChat, Chat(), Header(key));
  EXPECT_LT(std::stoi(next.headers.at("x-ratelimit-remaining-tokens")), 200 - 64)
      << "of which 64 are for this request itself";
}

TEST_F(HttpIdentityTest, RequestsAndTokensAreCountedByTenant) {
  DrawnKey& wolf = Add("wolf");
  wolf.record.requests_per_minute = 1;
  StartWithKeys({.cache = {.capacity_bytes = 1 << 20}});
  Say("Now.");
  const json greedy = Chat({{"temperature", 0}});
  EXPECT_EQ(rig_->Post(kChat, greedy, Header(wolf)).status, 200);
  EXPECT_EQ(rig_->Post(kChat, greedy, Header(wolf)).status, 429);
  EXPECT_EQ(rig_->Post(kChat, greedy).status, 401);
  EXPECT_TRUE(GatewayRig::WaitFor([this] { return rig_->frontend().num_running() == 0; }));
  const std::string metrics = rig_->registry.Expose();
  for (const char* const line : {
           R"(conclave_tenant_requests_total{code="OK",tenant="wolf"} 1)",
           R"(conclave_tenant_requests_total{code="RESOURCE_EXHAUSTED",tenant="wolf"} 1)",
           R"(conclave_tenant_requests_total{code="UNAUTHENTICATED",tenant="none"} 1)",
           R"(conclave_tenant_tokens_total{kind="cached",tenant="none"} 0)",
       }) {
    EXPECT_NE(metrics.find(std::string(line) + "\n"), std::string::npos) << line << "\n" << metrics;
  }
  EXPECT_NE(metrics.find(R"(conclave_tenant_tokens_total{kind="generated",tenant="wolf"} )"),
            std::string::npos);
}

TEST_F(HttpIdentityTest, ModelsAndClassesMayBeLimited) {
  DrawnKey& batch = Add("acme");
  batch.record.classes = {QosClass::kBatch};
  DrawnKey& elsewhere = Add("acme");
  elsewhere.record.models = {"fables"};
  StartWithKeys();
  EXPECT_EQ(Error(rig_->Post(kChat, Chat({{"qos", "interactive"}}), Header(batch)), 403)["param"],
            "qos");
  EXPECT_EQ(rig_->Post(kChat, Chat({{"qos", "batch"}}), Header(batch)).status, 200);
  EXPECT_EQ(rig_->engine().NextStart()->qos(), v1::QOS_CLASS_BATCH);
  EXPECT_EQ(Error(rig_->Post(kChat, Chat(), Header(elsewhere)), 403)["param"], "model");
}

TEST_F(HttpIdentityTest, WhoNamesNoClassGetsOneThatItsKeyMayUse) {
  DrawnKey& batch = Add("acme");
  batch.record.classes = {QosClass::kSheddable, QosClass::kBatch};
  StartWithKeys();
  EXPECT_EQ(rig_->Post(kChat, Chat(), Header(batch)).status, 200);
  EXPECT_EQ(rig_->engine().NextStart()->qos(), v1::QOS_CLASS_BATCH);
  v1::CompleteResponse answer;
  EXPECT_TRUE(Complete(batch.text, &answer).ok());
  EXPECT_EQ(rig_->engine().NextStart()->qos(), v1::QOS_CLASS_BATCH);
}

TEST_F(HttpIdentityTest, TenantsShareNoBlocksUnlessTheyShareAnswers) {
  file_.tenants.push_back({.name = "open", .shares_cache = true});
  const DrawnKey& acme = Add("acme");
  const DrawnKey& open = Add("open");
  StartWithKeys();
  EXPECT_EQ(rig_->Post(kChat, Chat(), Header(acme)).status, 200);
  EXPECT_EQ(rig_->engine().NextStart()->tenant_salt(), "acme");
  EXPECT_EQ(rig_->Post(kChat, Chat(), Header(open)).status, 200);
  EXPECT_EQ(rig_->engine().NextStart()->tenant_salt(), "");
}

TEST_F(HttpIdentityTest, TooManyChoicesCostNothing) {
  DrawnKey& key = Add("acme");
  key.record.requests_per_minute = 2;
  StartWithKeys();
  json prompts = json::array();
  for (int i = 0; i < 100; ++i) prompts.push_back({5, 6});
  const json error =
      Error(rig_->Post(kCompletions, json{{"prompt", prompts}, {"n", 2}}, Header(key)), 400);
  EXPECT_EQ(error["param"], "n");
  EXPECT_EQ(rig_->Post(kCompletions, json{{"prompt", {5, 6}}}, Header(key)).status, 200);
}

TEST_F(HttpIdentityTest, ATenantsClassIsCapped) {
  file_.tenants.push_back({.name = "acme", .weight = 3, .top_class = QosClass::kBatch});
  const DrawnKey& key = Add("acme");
  StartWithKeys();
  EXPECT_EQ(rig_->Post(kChat, Chat({{"qos", "realtime"}}), Header(key)).status, 200);
  const auto start = rig_->engine().NextStart();
  EXPECT_EQ(start->qos(), v1::QOS_CLASS_BATCH);
  EXPECT_EQ(start->tenant_weight(), 3);
}

TEST_F(HttpIdentityTest, TenantsSeeNothingOfEachOther) {
  const DrawnKey& acme = Add("acme");
  const DrawnKey& other = Add("other");
  StartWithKeys();
  const json greedy = Chat({{"temperature", 0}});
  EXPECT_EQ(rig_->Post(kChat, greedy, Header(acme)).headers.at("x-cache"), "miss");
  EXPECT_EQ(rig_->Post(kChat, greedy, Header(other)).headers.at("x-cache"), "miss");
  EXPECT_EQ(rig_->Post(kChat, greedy, Header(acme)).headers.at("x-cache"), "hit");
  // One id, two requests.
  Hang("The wolf");
  RawClient first(rig_->http_address());
  first.Send(GatewayRig::PostText(kChat, Chat({{"stream", true}, {"seed", 1}}).dump(),
                                  "x-request-id: same\r\n" + Header(acme)));
  ASSERT_NE(first.ReadUntil("wolf"), "");
  RawClient second(rig_->http_address());
  second.Send(GatewayRig::PostText(kChat, Chat({{"stream", true}, {"seed", 1}}).dump(),
                                   "x-request-id: same\r\n" + Header(other)));
  ASSERT_NE(second.ReadUntil("wolf"), "");
  // And nobody cancels another one's.
  const auto cancel = [this](const DrawnKey& key, const std::string& id) {
    const auto stub = v1::InferenceService::NewStub(
        grpc::CreateChannel(rig_->grpc_address(), grpc::InsecureChannelCredentials()));
    grpc::ClientContext context;
    context.AddMetadata("authorization", "Bearer " + key.text);
    v1::CancelRequest request;
    request.set_request_id(id);
    v1::CancelResponse response;
    return stub->Cancel(&context, request, &response).error_code();
  };
  EXPECT_EQ(cancel(acme, "same"), grpc::StatusCode::OK);
  ASSERT_NE(first.ReadUntil("[DONE]"), "");
  EXPECT_EQ(cancel(acme, "same"), grpc::StatusCode::NOT_FOUND);
  EXPECT_EQ(cancel(other, "same"), grpc::StatusCode::OK);
}

TEST_F(HttpIdentityTest, SharedAnswersAreTheTenantsChoice) {
  file_.tenants.push_back({.name = "a", .shares_cache = true});
  file_.tenants.push_back({.name = "b", .shares_cache = true});
  const DrawnKey& a = Add("a");
  const DrawnKey& b = Add("b");
  const DrawnKey& c = Add("c");
  StartWithKeys();
  const json greedy = Chat({{"temperature", 0}});
  EXPECT_EQ(rig_->Post(kChat, greedy, Header(a)).headers.at("x-cache"), "miss");
  EXPECT_EQ(rig_->Post(kChat, greedy, Header(b)).headers.at("x-cache"), "hit");
  EXPECT_EQ(rig_->Post(kChat, greedy, Header(c)).headers.at("x-cache"), "miss");
}

}  // namespace
}  // namespace conclave::gateway

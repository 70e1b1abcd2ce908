#include "services/gateway/http_api.h"

#include <gtest/gtest.h>

#include <future>
#include <nlohmann/json.hpp>

#include "tests/gateway/gateway_rig.h"

namespace conclave::gateway {
namespace {

using http::RawClient;
using http::RawResponse;
using nlohmann::json;

constexpr char kChat[] = "/v1/chat/completions";
constexpr char kCompletions[] = "/v1/completions";

json Chat(const json& more = json::object()) {
  json body = {{"model", "tales"},
               {"messages", {{{"role", "user"}, {"content", "Spell the word wolf."}}}}};
  body.update(more);
  return body;
}

// An engine that says `text`, then stops.
class HttpApiTest : public testing::Test {
 protected:
  void Start(GatewayRig::Options options = {}) {
    rig_ = std::make_unique<GatewayRig>(std::move(options), [this](const v1::StartSequence&) {
      MutexLock lock(mutex_);
      return script_;
    });
    Say("The wolf ran away.");
    rig_->ConnectEngines();
  }
  void Say(const std::string& text) {
    MutexLock lock(mutex_);
    script_ = Script{.ids = rig_->Ids(text), .stop_id = 2};
  }
  void Play(Script script) {
    MutexLock lock(mutex_);
    script_ = std::move(script);
  }
  void Hang(const std::string& text) { Play({.ids = rig_->Ids(text), .hang_after = true}); }
  json Error(const RawResponse& response, int status) {
    EXPECT_EQ(response.status, status) << response.body;
    return json::parse(response.body).at("error");
  }

  Mutex mutex_;
  Script script_ GUARDED_BY(mutex_);
  std::unique_ptr<GatewayRig> rig_;
};

TEST_F(HttpApiTest, AnswersAChat) {
  Start();
  const RawResponse response = rig_->Post(kChat, Chat({{"seed", 7}}), "x-request-id: mine\r\n");
  ASSERT_EQ(response.status, 200) << response.body;
  EXPECT_EQ(response.headers.at("x-request-id"), "mine");
  const json body = json::parse(response.body);
  EXPECT_EQ(body["id"], "chatcmpl-mine");
  EXPECT_EQ(body["object"], "chat.completion");
  EXPECT_EQ(body["model"], "tales");
  EXPECT_EQ(body["system_fingerprint"], "tales-bf16-cpu1-aaaa");
  EXPECT_EQ(body["seed"], 7);
  EXPECT_EQ(body["choices"][0]["message"]["role"], "assistant");
  EXPECT_EQ(body["choices"][0]["message"]["content"], "The wolf ran away.");
  EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
  EXPECT_TRUE(body["choices"][0]["logprobs"].is_null());
  const auto generated =
      static_cast<int64_t>(rig_->Ids("The wolf ran away.").size()) + 1;  // the stop id counts
  EXPECT_EQ(body["usage"]["completion_tokens"], generated);
  EXPECT_EQ(body["usage"]["total_tokens"],
            body["usage"]["prompt_tokens"].get<int64_t>() + generated);
  EXPECT_EQ(body["usage"]["prompt_tokens_details"]["cached_tokens"], 1);
}

TEST_F(HttpApiTest, StreamsAChatAsClientsExpect) {
  Start();
  const RawResponse response = rig_->Post(
      kChat, Chat({{"stream", true}, {"stream_options", {{"include_usage", true}}}, {"n", 2}}));
  ASSERT_EQ(response.status, 200);
  EXPECT_EQ(response.headers.at("content-type"), "text/event-stream");
  EXPECT_EQ(response.body.rfind("id: 0\n", 0), 0U);
  const std::vector<json> events = SseData(response.body);
  ASSERT_GT(events.size(), 6U);
  EXPECT_EQ(events.back(), "[DONE]");
  const json& usage = events[events.size() - 2];
  EXPECT_EQ(usage["choices"], json::array());
  EXPECT_GT(usage["usage"]["completion_tokens"], 2);
  std::string text[2];
  std::string finish[2];
  bool role[2] = {false, false};
  for (size_t i = 0; i + 2 < events.size(); ++i) {
    const json& event = events[i];
    EXPECT_EQ(event["object"], "chat.completion.chunk");
    EXPECT_EQ(event["id"], events[0]["id"]);
    EXPECT_TRUE(event.at("usage").is_null());
    EXPECT_EQ(event.contains("seed"), i == 0);
    EXPECT_EQ(event.contains("resume_token"), i == 0);
    const json& choice = event["choices"].at(0);
    const size_t index = choice["index"];
    ASSERT_LT(index, 2U);
    EXPECT_EQ(finish[index], "") << "a chunk after the last";
    if (choice["delta"].contains("role")) {
      EXPECT_FALSE(role[index]);
      role[index] = true;
    } else if (choice["finish_reason"].is_null()) {
      EXPECT_TRUE(role[index]) << "the role comes first";
      text[index] += choice["delta"].at("content").get<std::string>();
    } else {
      finish[index] = choice["finish_reason"];
      EXPECT_EQ(choice["delta"], json::object());
    }
  }
  for (const int i : {0, 1}) {
    EXPECT_EQ(text[i], "The wolf ran away.");
    EXPECT_EQ(finish[i], "stop");
  }
}

TEST_F(HttpApiTest, CompletesPromptsOfEveryKind) {
  Start();
  Say(" indeed");
  const auto texts = [this](const json& prompt, int n) {
    const RawResponse response = rig_->Post(kCompletions, json{{"prompt", prompt}, {"n", n}});
    EXPECT_EQ(response.status, 200) << response.body;
    std::vector<std::string> found;
    const json body = json::parse(response.body);
    EXPECT_EQ(body["object"], "text_completion");
    for (const json& choice : body["choices"]) {
      EXPECT_EQ(choice["index"], found.size());
      found.push_back(choice["text"]);
    }
    return found;
  };
  EXPECT_EQ(texts("A wolf", 1), std::vector<std::string>(1, " indeed"));
  EXPECT_EQ(texts(json::array({"A wolf", "A lamb", "A fox"}), 2),
            std::vector<std::string>(6, " indeed"));
  EXPECT_EQ(texts(json::array({5, 6, 7}), 1), std::vector<std::string>(1, " indeed"));
  EXPECT_EQ(texts(json::array({{5, 6}, {7}}), 1), std::vector<std::string>(2, " indeed"));
}

TEST_F(HttpApiTest, CompletionsStopAfterSixteenTokensUnlessToldOtherwise) {
  Start();
  Play({.ids = std::vector<int32_t>(40, rig_->Ids("wolf")[0])});
  const json body = json::parse(rig_->Post(kCompletions, json{{"prompt", "x"}}).body);
  EXPECT_EQ(body["usage"]["completion_tokens"], 16);
  EXPECT_EQ(body["choices"][0]["finish_reason"], "length");
  const json more =
      json::parse(rig_->Post(kCompletions, json{{"prompt", "x"}, {"max_tokens", 20}}).body);
  EXPECT_EQ(more["usage"]["completion_tokens"], 20);
}

TEST_F(HttpApiTest, EndsAtAStopStringAndCancelsTheEngine) {
  Start();
  Hang("The wolf ran away. And then some more");
  for (const bool stream : {false, true}) {
    const RawResponse response =
        rig_->Post(kChat, Chat({{"stop", {"never", " away"}}, {"stream", stream}}));
    ASSERT_EQ(response.status, 200) << response.body;
    EXPECT_TRUE(rig_->engine().NextCancel().has_value());
    if (stream) {
      std::string text;
      json last;
      for (const json& event : SseData(response.body)) {
        if (!event.is_object()) continue;
        text += event["choices"][0]["delta"].value("content", "");
        last = event["choices"][0];
      }
      EXPECT_EQ(text, "The wolf ran");
      EXPECT_EQ(last["finish_reason"], "stop");
      EXPECT_EQ(last["stop_reason"], " away");
    } else {
      const json body = json::parse(response.body);
      EXPECT_EQ(body["choices"][0]["message"]["content"], "The wolf ran");
      EXPECT_EQ(body["choices"][0]["finish_reason"], "stop");
      EXPECT_LE(body["usage"]["completion_tokens"], rig_->Ids("The wolf ran away.").size());
    }
  }
}

TEST_F(HttpApiTest, GivesLogprobsInBothFormats) {
  Start();
  Say("wolf");
  const json chat =
      json::parse(rig_->Post(kChat, Chat({{"logprobs", true}, {"top_logprobs", 2}})).body);
  const json& content = chat["choices"][0]["logprobs"]["content"];
  ASSERT_EQ(content.size(), rig_->Ids("wolf").size());
  std::string joined;
  for (const json& entry : content) {
    joined += entry["token"].get<std::string>();
    EXPECT_FLOAT_EQ(entry["logprob"], -0.25F);
    EXPECT_EQ(entry["top_logprobs"].size(), 2U);
    EXPECT_EQ(entry["bytes"].size(), entry["token"].get<std::string>().size());
  }
  EXPECT_EQ(joined, "wolf");
  const json legacy =
      json::parse(rig_->Post(kCompletions, json{{"prompt", "a"}, {"logprobs", 1}}).body);
  const json& logprobs = legacy["choices"][0]["logprobs"];
  EXPECT_EQ(logprobs["tokens"].size(), content.size());
  EXPECT_EQ(logprobs["token_logprobs"].size(), content.size());
  EXPECT_EQ(logprobs["text_offset"][0], 0);
  EXPECT_EQ(logprobs["top_logprobs"][0].size(), 1U);
}

TEST_F(HttpApiTest, PassesParametersToTheEngine) {
  Start();
  const json body = Chat({{"temperature", 0.5},
                          {"top_p", 0.25},
                          {"top_k", 7},
                          {"min_p", 0.125},
                          {"seed", 99},
                          {"repetition_penalty", 1.5},
                          {"presence_penalty", 0.5},
                          {"frequency_penalty", -0.5},
                          {"logit_bias", {{"9", 3}, {"5", -100}}},
                          {"max_completion_tokens", 12},
                          {"min_tokens", 3},
                          {"stop_token_ids", {11}},
                          {"pace", 20}});
  const std::string traceparent = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
  ASSERT_EQ(rig_->Post(kChat, body,
                       "traceparent: " + traceparent +
                           "\r\nx-request-timeout-ms: 60000\r\nx-request-id: a-1\r\n")
                .status,
            200);
  const auto start = rig_->engine().NextStart();
  ASSERT_TRUE(start.has_value());
  EXPECT_EQ(start->sampling().temperature(), 0.5F);
  EXPECT_EQ(start->sampling().top_p(), 0.25F);
  EXPECT_EQ(start->sampling().top_k(), 7);
  EXPECT_EQ(start->sampling().min_p(), 0.125F);
  EXPECT_EQ(start->sampling().repetition_penalty(), 1.5F);
  EXPECT_EQ(start->sampling().presence_penalty(), 0.5F);
  EXPECT_EQ(start->sampling().frequency_penalty(), -0.5F);
  ASSERT_EQ(start->sampling().bias_ids_size(), 2);
  EXPECT_EQ(start->sampling().bias_ids(0), 5);
  EXPECT_EQ(start->sampling().bias_values(0), -100);
  EXPECT_FALSE(start->sampling().has_top_logprobs());
  EXPECT_EQ(start->sampling().pace(), 20);
  EXPECT_EQ(start->seed(), 99U);
  EXPECT_EQ(start->max_tokens(), 12);
  EXPECT_EQ(start->min_tokens(), 3);
  EXPECT_EQ(std::vector<int32_t>(start->stop_ids().begin(), start->stop_ids().end()),
            (std::vector<int32_t>{2, 11}));
  EXPECT_EQ(start->traceparent(), traceparent);
  EXPECT_EQ(start->request_id(), "a-1");
  EXPECT_GT(start->remaining_ms(), 50000);
  EXPECT_LE(start->remaining_ms(), 60000);
  EXPECT_EQ(start->fingerprint(), std::string(64, 'a'));
}

TEST_F(HttpApiTest, TextPartsAndDeveloperMessagesReachTheTemplate) {
  Start();
  const json parts = {
      {{"role", "developer"}, {"content", "Be brief."}},
      {{"role", "user"},
       {"content", {{{"type", "text"}, {"text", "Spell"}}, {{"type", "text"}, {"text", "wolf"}}}}}};
  const json plain = {{{"role", "system"}, {"content", "Be brief."}},
                      {{"role", "user"}, {"content", "Spell\nwolf"}}};
  const auto ids = [this](const json& messages) {
    const RawResponse response = rig_->Post("/tokenize", json{{"messages", messages}});
    EXPECT_EQ(response.status, 200) << response.body;
    return json::parse(response.body)["tokens"];
  };
  EXPECT_EQ(ids(parts), ids(plain));
  EXPECT_NE(ids(parts), ids({{{"role", "user"}, {"content", "Spell\nwolf"}}}));
}

TEST_F(HttpApiTest, RefusesBadRequestsByField) {
  Start();
  const auto param = [this](const json& body) {
    const json error = Error(rig_->Post(kChat, body), 400);
    EXPECT_EQ(error["type"], "invalid_request_error");
    return error["param"].is_null() ? "" : error["param"].get<std::string>();
  };
  EXPECT_EQ(param({{"model", "tales"}}), "messages");
  EXPECT_EQ(param(Chat({{"messages", json::array()}})), "messages");
  EXPECT_EQ(param(Chat({{"messages", "hi"}})), "messages");
  EXPECT_EQ(param(Chat({{"messages", {{{"role", "robot"}, {"content", "x"}}}}})),
            "messages[0].role");
  EXPECT_EQ(param(Chat({{"messages", {{{"role", "user"}}}}})), "messages[0].content");
  EXPECT_EQ(
      param(Chat({{"messages", {{{"role", "user"}, {"content", {{{"type", "image_url"}}}}}}}})),
      "messages[0].content[0]");
  EXPECT_EQ(param(Chat({{"temperature", "hot"}})), "temperature");
  EXPECT_EQ(param(Chat({{"temperature", 3}})), "temperature");
  EXPECT_EQ(param(Chat({{"n", 1000000}})), "n");
  EXPECT_EQ(param(Chat({{"n", 1.5}})), "n");
  EXPECT_EQ(param(Chat({{"max_tokens", 1e30}})), "max_tokens");
  EXPECT_EQ(param(Chat({{"stop", 7}})), "stop");
  EXPECT_EQ(param(Chat({{"stop", {""}}})), "stop");
  EXPECT_EQ(param(Chat({{"seed", "x"}})), "seed");
  EXPECT_EQ(param(Chat({{"logit_bias", {{"x", 1}}}})), "logit_bias");
  EXPECT_EQ(param(Chat({{"logit_bias", {{"99999", 1}}}})), "logit_bias");
  EXPECT_EQ(param(Chat({{"top_logprobs", 2}})), "top_logprobs");
  EXPECT_EQ(param(Chat({{"logprobs", true}, {"top_logprobs", 21}})), "top_logprobs");
  EXPECT_EQ(param(Chat({{"stream_options", {{"include_usage", true}}}})), "stream_options");
  EXPECT_EQ(param(Chat({{"stop_token_ids", {4096}}})), "stop_token_ids");
  EXPECT_EQ(param(Chat({{"chat_template_kwargs", 1}})), "chat_template_kwargs");
  EXPECT_EQ(Error(rig_->Post(kCompletions, json{{"prompt", {4096}}}), 400)["param"], "prompt");
  EXPECT_EQ(Error(rig_->Post(kCompletions, json{{"prompt", {"a", 1}}}), 400)["param"], "prompt");
  EXPECT_EQ(Error(rig_->Post(kCompletions, json{{"prompt", json::array()}}), 400)["param"],
            "prompt");
  EXPECT_EQ(Error(rig_->Post(kCompletions, json{{"prompt", "a"}, {"logprobs", 6}}), 400)["param"],
            "logprobs");
  EXPECT_EQ(Error(rig_->Post(kChat, Chat(), "x-request-timeout-ms: soon\r\n"), 400)["param"],
            "x-request-timeout-ms");
  EXPECT_EQ(rig_->Post(kChat, Chat()).status, 200);
}

TEST_F(HttpApiTest, RefusesBodiesThatAreNoJsonObject) {
  Start();
  for (const char* body :
       {"", "{", "[]", "null", "{\"messages\":[],\"messages\":[]}", "{\"n\":NaN}", "\xff"}) {
    Error(rig_->Post(kChat, std::string(body)), 400);
  }
  Error(rig_->Post(kChat, std::string(10000, '[')), 400);
  RawClient client(rig_->http_address());
  client.Send(
      "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Type: "
      "text/plain\r\nContent-Length: 2\r\n\r\n{}");
  EXPECT_EQ(client.ReadResponse().status, 415);
  EXPECT_EQ(rig_->Post(kChat, std::string((4 << 20) + 1, ' ')).status, 413);
  EXPECT_EQ(rig_->Get(kChat).status, 405);
  EXPECT_EQ(rig_->Get("/v1/nothing").status, 404);
}

TEST_F(HttpApiTest, NamesUnknownModelsAndTooLongPrompts) {
  Start();
  const json unknown = Error(rig_->Post(kChat, Chat({{"model", "gpt-4"}})), 404);
  EXPECT_EQ(unknown["code"], "model_not_found");
  EXPECT_EQ(unknown["param"], "model");
  const json too_long =
      Error(rig_->Post(kCompletions, json{{"prompt", std::vector<int>(64, 5)}}), 400);
  EXPECT_EQ(too_long["code"], "context_length_exceeded");
  EXPECT_NE(too_long["message"].get<std::string>().find("64 tokens"), std::string::npos);
}

TEST_F(HttpApiTest, ListsModels) {
  Start();
  const json list = json::parse(rig_->Get("/v1/models").body);
  EXPECT_EQ(list["object"], "list");
  EXPECT_EQ(list["data"][0]["id"], "tales");
  EXPECT_EQ(list["data"][0]["max_model_len"], 64);
  EXPECT_EQ(json::parse(rig_->Get("/v1/models/tales").body)["object"], "model");
  EXPECT_EQ(Error(rig_->Get("/v1/models/gpt%2D4"), 404)["code"], "model_not_found");
}

TEST_F(HttpApiTest, TokenizesAndBack) {
  Start();
  const json tokens = json::parse(
      rig_->Post("/tokenize", json{{"prompt", "The wolf ran."}, {"return_token_strs", true}}).body);
  EXPECT_EQ(tokens["count"], tokens["tokens"].size());
  EXPECT_EQ(tokens["max_model_len"], 64);
  EXPECT_EQ(tokens["token_strs"].size(), tokens["tokens"].size());
  const json text = json::parse(rig_->Post("/detokenize", json{{"tokens", tokens["tokens"]}}).body);
  EXPECT_EQ(text["prompt"], "The wolf ran.");
  EXPECT_EQ(Error(rig_->Post("/detokenize", json{{"tokens", {99999}}}), 400)["param"], "tokens");
  EXPECT_EQ(Error(rig_->Post("/tokenize", json::object()), 400)["param"], "prompt");
}

TEST_F(HttpApiTest, EngineFailuresKeepTheirStatusBeforeTheStreamAndBecomeEventsInside) {
  Start();
  Play({.ids = {}, .fail_code = 14, .fail_message = "layer 1 expert 3 has no live worker"});
  for (const bool stream : {false, true}) {
    const json error = Error(rig_->Post(kChat, Chat({{"stream", stream}})), 503);
    EXPECT_NE(error["message"].get<std::string>().find("layer 1 expert 3"), std::string::npos);
  }
  Play({.ids = rig_->Ids("The"),
        .fail_code = 14,
        .fail_message = "layer 1 expert 3 has no live worker"});
  const RawResponse response = rig_->Post(kChat, Chat({{"stream", true}}));
  EXPECT_EQ(response.status, 200);
  const std::vector<json> events = SseData(response.body);
  ASSERT_GE(events.size(), 3U);
  EXPECT_EQ(events.back(), "[DONE]");
  EXPECT_EQ(events[events.size() - 2]["error"]["message"], "layer 1 expert 3 has no live worker");
}

TEST_F(HttpApiTest, ALostEngineFailsItsRequestsAndIsFoundAgain) {
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

TEST_F(HttpApiTest, AClientThatClosesCancelsItsRequest) {
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

TEST_F(HttpApiTest, CommentsKeepAWaitingStreamAlive) {
  Start({.heartbeat_period = std::chrono::milliseconds(20)});
  Play({.ids = {}, .hang_after = true});
  RawClient client(rig_->http_address());
  client.Send(GatewayRig::PostText(kChat, Chat({{"stream", true}}).dump()));
  EXPECT_NE(client.ReadUntil(": waiting\n\n"), "");
  EXPECT_NE(client.ReadUntil(": waiting\n\n"), "");
}

TEST_F(HttpApiTest, RefusesMoreRequestsThanPlaces) {
  Start({.max_running = 1});
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

TEST_F(HttpApiTest, RefusesTheIdOfARunningRequest) {
  Start();
  Hang("The wolf");
  RawClient client(rig_->http_address());
  client.Send(
      GatewayRig::PostText(kChat, Chat({{"stream", true}}).dump(), "x-request-id: twice\r\n"));
  ASSERT_NE(client.ReadUntil("wolf"), "");
  Error(rig_->Post(kChat, Chat(), "x-request-id: twice\r\n"), 409);
}

TEST_F(HttpApiTest, EndsRequestsAtTheirDeadline) {
  Start();
  Hang("The wolf");
  const json error = Error(rig_->Post(kChat, Chat(), "x-request-timeout-ms: 50\r\n"), 504);
  EXPECT_NE(error["message"].get<std::string>().find("time is over"), std::string::npos);
  EXPECT_TRUE(rig_->engine().NextCancel().has_value());
}

TEST_F(HttpApiTest, EndsRequestsWithoutAFirstToken) {
  Start({.first_token_timeout = std::chrono::milliseconds(50)});
  Play({.ids = {}, .hang_after = true});
  Error(rig_->Post(kChat, Chat()), 504);
}

TEST_F(HttpApiTest, IsReadyOnlyWithASteppingEngineAndAllExperts) {
  GatewayRig::Options options;
  rig_ = std::make_unique<GatewayRig>(options, [](const v1::StartSequence&) { return Script{}; });
  const RawResponse none = rig_->Get("/readyz");
  EXPECT_EQ(none.status, 503);
  EXPECT_EQ(json::parse(none.body)["missing"][0], "no engine is connected");
  EXPECT_EQ(rig_->Get("/livez").status, 200);
  Error(rig_->Post(kChat, Chat()), 503);
  rig_->ConnectEngines();
  EXPECT_EQ(rig_->Get("/readyz").status, 200);

  const auto update = [this](const placement::ClusterView& view, int status) {
    rig_->frontend().UpdateCluster(view);
    EXPECT_TRUE(GatewayRig::WaitFor([&] { return rig_->Get("/readyz").status == status; }));
    return rig_->Get("/readyz").body;
  };
  placement::ClusterView view = rig_->View();
  view.missing.push_back({.fingerprint = std::string(64, 'a'), .experts = {{1, 3}}});
  EXPECT_NE(update(view, 503).find("layer 1"), std::string::npos);
  view.missing[0].fingerprint = std::string(64, 'b');  // another model's
  update(view, 200);
  view.engines[0].load.last_step_age_ms = 60'000;
  EXPECT_NE(update(view, 503).find("engine-0 has not stepped for 60 s"), std::string::npos);
}

TEST_F(HttpApiTest, RefusesAnEngineWhoseEmbeddingIsTooSmall) {
  GatewayRig::Options options;
  options.hello.set_vocab_size(100);
  rig_ = std::make_unique<GatewayRig>(options, [](const v1::StartSequence&) { return Script{}; });
  rig_->frontend().UpdateCluster(rig_->View());
  EXPECT_TRUE(GatewayRig::WaitFor([this] {
    return rig_->Get("/readyz").body.find("the embedding of engine-0 has 100 rows") !=
           std::string::npos;
  }));
}

TEST_F(HttpApiTest, SpreadsRequestsOverEngines) {
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

TEST_F(HttpApiTest, DrainRefusesNewRequestsAndFinishesRunningOnes) {
  Start();
  Hang("The wolf");
  RawClient client(rig_->http_address());
  client.Send(GatewayRig::PostText(kChat, Chat({{"stream", true}}).dump()));
  ASSERT_NE(client.ReadUntil("wolf"), "");
  std::future<Frontend::Drained> drained = std::async(std::launch::async, [this] {
    return rig_->frontend().Drain(std::chrono::milliseconds(200));
  });
  EXPECT_TRUE(GatewayRig::WaitFor([this] { return rig_->Post(kChat, Chat()).status == 503; }));
  EXPECT_NE(rig_->Get("/readyz").body.find("shutting down"), std::string::npos);
  const Frontend::Drained found = drained.get();
  EXPECT_EQ(found.running, 1);
  EXPECT_EQ(found.cut_off, 1);
  EXPECT_NE(client.ReadUntil("[DONE]").find("the gateway has shut down"), std::string::npos);
}

TEST_F(HttpApiTest, AnAnsweredRequestIsNotAmongThoseDrained) {
  Start();
  Say("The wolf.");
  for (int i = 0; i < 20; ++i) ASSERT_EQ(rig_->Post(kChat, Chat()).status, 200);
  const Frontend::Drained found = rig_->frontend().Drain(std::chrono::seconds(5));
  EXPECT_EQ(found.running, 0);
  EXPECT_EQ(found.cut_off, 0);
}

TEST_F(HttpApiTest, PromptsAndAnswersNeverReachTheLog) {
  Start();
  Say("The secret answer is blue.");
  testing::internal::CaptureStderr();
  EXPECT_EQ(rig_->Post(kChat,
                       Chat({{"messages", {{{"role", "user"}, {"content", "my private question"}}}},
                             {"typo_field", 1}}))
                .status,
            200);
  EXPECT_EQ(rig_->Post(kChat,
                       Chat({{"messages", {{{"role", "user"}, {"content", "my private question"}}}},
                             {"typo_field", 1},
                             {"n", 0}}))
                .status,
            400);
  EXPECT_TRUE(GatewayRig::WaitFor([this] { return rig_->frontend().num_running() == 0; }));
  rig_.reset();
  const std::string log = testing::internal::GetCapturedStderr();
  EXPECT_NE(log.find("request ended"), std::string::npos) << log;
  EXPECT_EQ(log.find("private"), std::string::npos) << log;
  EXPECT_EQ(log.find("blue"), std::string::npos) << log;
  const size_t once = log.find("typo_field");
  EXPECT_NE(once, std::string::npos) << log;
  EXPECT_EQ(log.find("typo_field", once + 1), std::string::npos) << log;
}

TEST_F(HttpApiTest, CountsWhatItDoes) {
  Start();
  rig_->Post(kChat, Chat());
  rig_->Post(kChat, Chat({{"n", 0}}));
  EXPECT_TRUE(GatewayRig::WaitFor([this] { return rig_->frontend().num_running() == 0; }));
  const std::string metrics = rig_->Get("/metrics").body;
  EXPECT_NE(metrics.find(R"(conclave_requests_total{api="chat",code="OK"} 1)"), std::string::npos)
      << metrics;
  EXPECT_NE(metrics.find(R"(conclave_requests_total{api="chat",code="INVALID_ARGUMENT"} 1)"),
            std::string::npos);
  EXPECT_NE(metrics.find("conclave_time_to_first_token_seconds_count 1"), std::string::npos);
  EXPECT_NE(metrics.find(R"(conclave_finished_choices_total{reason="stop"} 1)"), std::string::npos);
}

}  // namespace
}  // namespace conclave::gateway

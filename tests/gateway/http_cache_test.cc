// The response cache as HTTP clients see it.
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "tests/gateway/http_api_fixture.h"

namespace conclave::gateway {
namespace {

class HttpCacheTest : public HttpApiTest {
 protected:
  static std::string Cache(const RawResponse& response) {
    const auto found = response.headers.find("x-cache");
    return found == response.headers.end() ? "" : found->second;
  }
  static json Greedy(const json& more = json::object()) {
    json body = Chat({{"temperature", 0}});
    body.update(more);
    return body;
  }
  // How often the engine was asked since the last call.
  int Asked() {
    int count = 0;
    while (rig_->engine().StartedNow().has_value()) ++count;
    return count;
  }
  static std::string Content(const RawResponse& response) {
    return json::parse(response.body)["choices"][0]["message"]["content"];
  }
};

TEST_F(HttpCacheTest, GivesAnEqualRequestTheKeptAnswer) {
  Start();
  const RawResponse first = rig_->Post(kChat, Greedy());
  EXPECT_EQ(Cache(first), "miss");
  Say("Something else.");
  const RawResponse second = rig_->Post(kChat, Greedy());
  EXPECT_EQ(Cache(second), "hit");
  const json a = json::parse(first.body), b = json::parse(second.body);
  for (const char* member : {"choices", "usage", "model", "system_fingerprint"}) {
    EXPECT_EQ(a[member], b[member]) << member;
  }
  EXPECT_NE(a["id"], b["id"]);
  EXPECT_NE(b["resume_token"], "");
  EXPECT_EQ(Asked(), 1);
  EXPECT_EQ(rig_->frontend().num_running(), 0);
}

TEST_F(HttpCacheTest, ReplaysAStreamAsAStream) {
  Start();
  const json wanted = Greedy({{"stream", true},
                              {"stream_options", {{"include_usage", true}}},
                              {"return_token_ids", true}});
  const RawResponse first = rig_->Post(kChat, wanted);
  const RawResponse second = rig_->Post(kChat, wanted);
  EXPECT_EQ(Cache(first), "miss");
  EXPECT_EQ(Cache(second), "hit");
  const auto read = [](const RawResponse& response) {
    std::pair<std::string, std::vector<int>> read;
    for (const json& event : SseData(response.body)) {
      if (event.is_string() || event["choices"].empty()) continue;
      const json& choice = event["choices"][0];
      read.first += choice["delta"].value("content", "");
      for (const json& id : choice.value("token_ids", json::array())) read.second.push_back(id);
    }
    return read;
  };
  EXPECT_EQ(read(first), read(second));
  EXPECT_EQ(read(second).first, "The wolf ran away.");
  EXPECT_EQ(SseData(second.body).back(), "[DONE]");
  EXPECT_EQ(SseData(first.body)[SseData(first.body).size() - 2]["usage"],
            SseData(second.body)[SseData(second.body).size() - 2]["usage"]);
  // A whole answer comes from the same entry.
  const RawResponse whole = rig_->Post(kChat, Greedy());
  EXPECT_EQ(Cache(whole), "hit");
  EXPECT_EQ(Content(whole), "The wolf ran away.");
}

TEST_F(HttpCacheTest, ComparesEverythingThatDecidesAnAnswer) {
  Start();
  EXPECT_EQ(Cache(rig_->Post(kChat, Greedy())), "miss");
  for (const json& other :
       {json{{"max_tokens", 3}}, json{{"stop", "wolf"}}, json{{"n", 2}},
        json{{"temperature", 0.5}, {"seed", 1}}, json{{"presence_penalty", 0.5}},
        json{{"frequency_penalty", 0.5}}, json{{"repetition_penalty", 1.5}},
        json{{"logit_bias", {{"5", 1}}}}, json{{"min_tokens", 2}}, json{{"ignore_eos", true}},
        json{{"stop_token_ids", {9}}}, json{{"logprobs", true}},
        json{{"logprobs", true}, {"top_logprobs", 2}}, json{{"top_p", 0.5}}, json{{"top_k", 5}},
        json{{"min_p", 0.5}}, json{{"add_generation_prompt", false}},
        json{{"chat_template_kwargs", {{"topic", "x"}}}},
        json{{"messages", {{{"role", "user"}, {"content", "Spell the word wolf"}}}}}}) {
    EXPECT_EQ(Cache(rig_->Post(kChat, Greedy(other))), "miss") << other;
    EXPECT_EQ(Cache(rig_->Post(kChat, Greedy(other))), "hit") << other;
  }
  // What does not decide it.
  for (const json& same : {json{{"pace", 1000}}, json{{"qos", "batch"}}, json{{"user", "u"}},
                           json{{"seed", 3}}, json{{"stream", true}}}) {
    EXPECT_EQ(Cache(rig_->Post(kChat, Greedy(same))), "hit") << same;
  }
}

TEST_F(HttpCacheTest, UsesItForWhatAClientCanRepeat) {
  Start();
  const json warm = Chat({{"temperature", 1}});
  EXPECT_EQ(Cache(rig_->Post(kChat, warm)), "");
  EXPECT_EQ(Cache(rig_->Post(kChat, warm)), "");
  json seeded = warm;
  seeded["seed"] = 7;
  EXPECT_EQ(Cache(rig_->Post(kChat, seeded)), "miss");
  EXPECT_EQ(Cache(rig_->Post(kChat, seeded)), "hit");
  json asked = warm;
  asked["cache"] = "use";
  const RawResponse first = rig_->Post(kChat, asked);
  const RawResponse second = rig_->Post(kChat, asked);
  EXPECT_EQ(Cache(first), "miss");
  EXPECT_EQ(Cache(second), "hit");
  EXPECT_EQ(json::parse(first.body)["seed"], json::parse(second.body)["seed"]);
}

TEST_F(HttpCacheTest, ADrawnSeedMakesNoneOfSeveralPromptsSeeded) {
  Start();
  const json warm = {{"prompt", {"Once", "The wolf"}}, {"temperature", 1}};
  for (int i = 0; i < 2; ++i) {
    EXPECT_EQ(Cache(rig_->Post(kCompletions, warm)), "");
    const auto first = rig_->engine().NextStart(), second = rig_->engine().NextStart();
    ASSERT_TRUE(first && second) << "each is computed anew";
    EXPECT_EQ(first->seed(), second->seed()) << "one seed for the whole answer";
  }
  json seeded = warm;
  seeded["seed"] = 7;
  EXPECT_EQ(Cache(rig_->Post(kCompletions, seeded)), "miss");
  EXPECT_EQ(Cache(rig_->Post(kCompletions, seeded)), "hit");
}

TEST_F(HttpCacheTest, ObeysItsField) {
  Start();
  rig_->Post(kChat, Greedy());
  Say("Anew.");
  EXPECT_EQ(Cache(rig_->Post(kChat, Greedy({{"cache", "off"}}))), "");
  EXPECT_EQ(Content(rig_->Post(kChat, Greedy())), "The wolf ran away.");
  EXPECT_EQ(Cache(rig_->Post(kChat, Greedy({{"cache", "refresh"}}))), "miss");
  EXPECT_EQ(Content(rig_->Post(kChat, Greedy())), "Anew.");
  const json error = Error(rig_->Post(kChat, Greedy({{"cache", "maybe"}})), 400);
  EXPECT_EQ(error["param"], "cache");
}

TEST_F(HttpCacheTest, KeepsNothingThatFailedOrWasCancelled) {
  Start();
  Play({.ids = rig_->Ids("The"), .fail_code = 14});
  EXPECT_EQ(rig_->Post(kChat, Greedy()).status, 503);
  Say("Well.");
  EXPECT_EQ(Cache(rig_->Post(kChat, Greedy())), "miss");
}

TEST_F(HttpCacheTest, EqualRequestsInFlightShareOneGeneration) {
  Start();
  Hang("The wolf");
  RawClient first(rig_->http_address());
  first.Send(GatewayRig::PostText(kChat, Greedy({{"stream", true}}).dump()));
  ASSERT_NE(first.ReadUntil("wolf"), "");
  RawClient second(rig_->http_address());
  second.Send(GatewayRig::PostText(kChat, Greedy({{"stream", true}}).dump()));
  const std::string head = second.ReadUntil("wolf");
  EXPECT_NE(head.find("x-cache: joined"), std::string::npos) << head;
  EXPECT_EQ(Asked(), 1);
  first.Close();
  ASSERT_TRUE(GatewayRig::WaitFor([this] { return rig_->frontend().num_running() == 1; }));
  EXPECT_FALSE(rig_->engine().CancelledNow().has_value());
  second.Close();
  EXPECT_TRUE(rig_->engine().NextCancel().has_value());
}

TEST_F(HttpCacheTest, WhatIsDroppedIsCounted) {
  GatewayRig::Options options;
  options.cache.ttl = Duration(0);
  Start(options);
  for (int i = 0; i < 2; ++i) EXPECT_EQ(Cache(rig_->Post(kChat, Greedy())), "miss");
  EXPECT_TRUE(GatewayRig::WaitFor([this] {
    const std::string metrics = rig_->registry.Expose();
    return metrics.find(R"(conclave_cache_dropped_total{reason="expired"} 1)") != std::string::npos;
  }));
}

TEST_F(HttpCacheTest, OffMeansOff) {
  GatewayRig::Options options;
  options.cache.capacity_bytes = 0;
  Start(options);
  rig_->Post(kChat, Greedy());
  EXPECT_EQ(Cache(rig_->Post(kChat, Greedy())), "");
  EXPECT_EQ(Asked(), 2);
}

}  // namespace
}  // namespace conclave::gateway

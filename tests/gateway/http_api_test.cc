#include "services/gateway/http_api.h"

#include <gtest/gtest.h>

#include <future>
#include <nlohmann/json.hpp>
#include <set>

#include "absl/strings/str_cat.h"
#include "tests/gateway/http_api_fixture.h"

namespace conclave::gateway {
namespace {

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

TEST_F(HttpApiTest, TokenStringsAreTheVocabularysNames) {
  Start();
  // The four bytes of the emoji are tokens of their own: no piece is text, but each has a name.
  const json answer = json::parse(
      rig_->Post("/tokenize", json{{"prompt", " wolf \U0001F43A"}, {"return_token_strs", true}})
          .body);
  ASSERT_EQ(answer["token_strs"].size(), answer["tokens"].size());
  EXPECT_EQ(answer["token_strs"][0], "Ġwolf");
  std::set<std::string> names;
  for (size_t i = 0; i < answer["tokens"].size(); ++i) {
    const std::string name = answer["token_strs"][i];
    EXPECT_EQ(name.find("\uFFFD"), std::string::npos) << name;
    EXPECT_EQ(rig_->frontend().model().tokenizer()->TokenId(name),
              answer["tokens"][i].get<int32_t>());
    names.insert(name);
  }
  EXPECT_GT(names.size(), 3U);
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
  rig_->Post(kChat, Chat({{"qos", "batch"}, {"seed", 2}}));
  EXPECT_TRUE(GatewayRig::WaitFor([this] { return rig_->frontend().num_running() == 0; }));
  const std::string metrics = rig_->registry.Expose();
  EXPECT_NE(metrics.find(R"(conclave_requests_total{api="chat",code="OK"} 2)"), std::string::npos)
      << metrics;
  EXPECT_NE(metrics.find(R"(conclave_requests_total{api="chat",code="INVALID_ARGUMENT"} 1)"),
            std::string::npos);
  for (const char* const histogram :
       {"conclave_time_to_first_token_seconds", "conclave_request_seconds"}) {
    for (const auto& [qos, count] : {std::pair{"interactive", 1}, {"batch", 1}, {"realtime", 0}}) {
      EXPECT_NE(metrics.find(absl::StrCat(histogram, "_count{class=\"", qos, "\"} ", count, "\n")),
                std::string::npos)
          << histogram << ' ' << qos << '\n'
          << metrics;
    }
  }
  EXPECT_NE(metrics.find(R"(conclave_finished_choices_total{reason="stop"} 2)"), std::string::npos);
}

}  // namespace
}  // namespace conclave::gateway

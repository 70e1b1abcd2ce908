// What a client hears when its request cannot be served.
#include <gtest/gtest.h>

#include <future>
#include <nlohmann/json.hpp>

#include "tests/gateway/http_api_fixture.h"

namespace conclave::gateway {
namespace {

using HttpErrorsTest = HttpApiTest;

TEST_F(HttpErrorsTest, RefusesBadRequestsByField) {
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
  for (const char* field : {"cache", "qos"}) {
    for (const json& odd : {json(""), json("USE"), json(" batch"), json(1), json(json::array()),
                            json(std::string(100'000, 'x'))}) {
      EXPECT_EQ(param(Chat({{field, odd}})), field) << odd.dump().substr(0, 20);
    }
    EXPECT_EQ(rig_->Post(kChat, Chat({{field, nullptr}})).status, 200);
  }
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

TEST_F(HttpErrorsTest, RefusesBodiesThatAreNoJsonObject) {
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

TEST_F(HttpErrorsTest, NamesUnknownModelsAndTooLongPrompts) {
  Start();
  const json unknown = Error(rig_->Post(kChat, Chat({{"model", "gpt-4"}})), 404);
  EXPECT_EQ(unknown["code"], "model_not_found");
  EXPECT_EQ(unknown["param"], "model");
  const json too_long =
      Error(rig_->Post(kCompletions, json{{"prompt", std::vector<int>(64, 5)}}), 400);
  EXPECT_EQ(too_long["code"], "context_length_exceeded");
  EXPECT_NE(too_long["message"].get<std::string>().find("64 tokens"), std::string::npos);
}

TEST_F(HttpErrorsTest, EngineFailuresKeepTheirStatusBeforeTheStreamAndBecomeEventsInside) {
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

// What the error says and which field it names.
struct Fault {
  std::string param;
  std::string message;
};

class HttpFaultsTest : public HttpApiTest {
 protected:
  Fault Refused(const std::string& path, const json& body) {
    const json error = Error(rig_->Post(path, body), 400);
    return {error["param"].is_null() ? "null" : error["param"].get<std::string>(),
            error["message"].get<std::string>()};
  }
  std::string BodyFault(const std::string& body) {
    return Error(rig_->Post(kChat, body), 400)["message"].get<std::string>();
  }
};

TEST_F(HttpFaultsTest, NamesTheFieldAsTheClientWroteIt) {
  Start();
  EXPECT_EQ(Refused(kChat, Chat({{"max_completion_tokens", 0}})).param, "max_completion_tokens");
  EXPECT_EQ(Refused(kChat, Chat({{"max_tokens", 0}})).param, "max_tokens");
  EXPECT_EQ(Refused(kCompletions, {{"prompt", "a"}, {"max_tokens", 0}}).param, "max_tokens");
  EXPECT_EQ(Refused(kChat, Chat({{"chat_template_kwargs", {{"messages", json::array()}}}})).param,
            "chat_template_kwargs.messages");
  EXPECT_EQ(
      Refused(kChat, Chat({{"stream", true}, {"stream_options", {{"include_usage", 1}}}})).param,
      "stream_options.include_usage");
  const Fault too_many = Refused(kChat, Chat({{"max_completion_tokens", 3}, {"min_tokens", 4}}));
  EXPECT_EQ(too_many.param, "min_tokens");
  EXPECT_NE(too_many.message.find("max_completion_tokens"), std::string::npos);
}

TEST_F(HttpFaultsTest, ShowsEveryDigitThatMatters) {
  Start();
  EXPECT_EQ(Refused(kChat, Chat({{"temperature", 2.00000001}})).message,
            "temperature: expected a number in [0, 2], found 2.00000001");
  EXPECT_EQ(Refused(kChat, Chat({{"temperature", 2.5}})).message,
            "temperature: expected a number in [0, 2], found 2.5");
  EXPECT_EQ(Refused(kChat, Chat({{"min_p", -1e-9}})).message,
            "min_p: expected a number in [0, 1], found -1e-09");
}

TEST_F(HttpFaultsTest, ExtremeValuesInRangeReachTheEngineAndOthersDoNot) {
  Start();
  EXPECT_EQ(rig_->Post(kChat, Chat({{"top_p", 1e-50}})).status, 200);
  EXPECT_GT(rig_->engine().NextStart()->sampling().top_p(), 0);
  EXPECT_EQ(rig_->Post(kChat, Chat({{"repetition_penalty", 0.001}})).status, 200);
  EXPECT_GE(rig_->engine().NextStart()->sampling().repetition_penalty(), 1e-3F);
  EXPECT_EQ(Refused(kChat, Chat({{"repetition_penalty", 0.00099}})).param, "repetition_penalty");
  EXPECT_EQ(Refused(kChat, Chat({{"repetition_penalty", 0}})).param, "repetition_penalty");
  EXPECT_EQ(Refused(kChat, Chat({{"top_p", 0}})).param, "top_p");
  EXPECT_EQ(Refused(kChat, Chat({{"pace", 1e-300}})).param, "pace");
  EXPECT_EQ(Refused(kChat, Chat({{"pace", 0}})).param, "pace");
  EXPECT_EQ(rig_->Post(kChat, Chat({{"pace", 0.01}})).status, 200);
}

TEST_F(HttpFaultsTest, SpeaksPlainlyOfBodies) {
  Start();
  EXPECT_EQ(BodyFault(R"({"n":1,"n":2})"), R"(the body has the key "n" twice in one object)");
  EXPECT_EQ(BodyFault(R"({"naïve":1,"naïve":2})"),
            R"(the body has the key "naïve" twice in one object)");
  EXPECT_EQ(BodyFault(std::string(100, '[')), "the body is nested deeper than 64 levels");
  const std::string syntax = BodyFault(R"({'n':1})");
  EXPECT_EQ(syntax.find("the body is not JSON at byte 2: "), 0U) << syntax;
  EXPECT_EQ(syntax.find('\\'), std::string::npos) << syntax;
  const json unknown = Error(rig_->Post(kChat, Chat({{"model", "modèle\n"}})), 404);
  EXPECT_EQ(unknown["message"], "model \"modèle \" is not served here; served: \"tales\"");
}

}  // namespace
}  // namespace conclave::gateway

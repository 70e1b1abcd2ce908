#include "services/gateway/openai_json.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include "services/gateway/text_model.h"

namespace conclave::gateway {
namespace {

const AnswerHead kChat = {.endpoint = Endpoint::kChat,
                          .id = "chatcmpl-\"1\"",
                          .created = 1795397865,
                          .model = "tales",
                          .system_fingerprint = "tales-bf16"};

AnswerHead Completion() {
  AnswerHead head = kChat;
  head.endpoint = Endpoint::kCompletions;
  return head;
}

// A chunk or a whole answer around what `write` writes.
template <typename Write>
std::string Around(const std::string& beginning, Write write) {
  std::string json = beginning;
  JsonWriter writer(&json);
  write(writer);
  writer.EndArray();
  writer.EndObject();
  return json;
}

// The members in OpenAI's order.
OrderedJson Expected(const AnswerHead& head, const char* object, OrderedJson choices) {
  return {{"id", head.id},
          {"object", object},
          {"created", head.created},
          {"model", head.model},
          {"system_fingerprint", head.system_fingerprint},
          {"choices", std::move(choices)}};
}

TEST(OpenAiJsonTest, WritesTheChunksOfAChat) {
  const std::vector<int32_t> ids = {7, 8};
  const std::string json = Around(ChunkBeginning(kChat), [&](JsonWriter& writer) {
    WriteRoleChoice(0, writer);
    WriteTextChoice(Endpoint::kChat, 1, {.text = "a\n\xC3\xA9"}, writer);
    const ChoiceTokens tokens = {
        .choice_index = 2, .token_index = 5, .ids = ids, .text = "", .logprobs = {}};
    WriteTextChoice(Endpoint::kChat, 2,
                    {.text = "", .logprobs = "{\"content\":[]}", .tokens = &tokens}, writer);
    WriteFinishChoice(Endpoint::kChat, 3, FinishReason::kStop, "END\"", writer);
    WriteFinishChoice(Endpoint::kChat, 4, FinishReason::kLength, "", writer);
  });
  const OrderedJson choices = {{{"index", 0},
                                {"delta", {{"role", "assistant"}, {"content", ""}}},
                                {"logprobs", nullptr},
                                {"finish_reason", nullptr}},
                               {{"index", 1},
                                {"delta", {{"content", "a\n\xC3\xA9"}}},
                                {"logprobs", nullptr},
                                {"finish_reason", nullptr}},
                               {{"index", 2},
                                {"delta", {{"content", ""}}},
                                {"logprobs", {{"content", OrderedJson::array()}}},
                                {"finish_reason", nullptr},
                                {"token_index", 5},
                                {"token_ids", ids}},
                               {{"index", 3},
                                {"delta", OrderedJson::object()},
                                {"logprobs", nullptr},
                                {"finish_reason", "stop"},
                                {"stop_reason", "END\""}},
                               {{"index", 4},
                                {"delta", OrderedJson::object()},
                                {"logprobs", nullptr},
                                {"finish_reason", "length"}}};
  EXPECT_EQ(json, Dump(Expected(kChat, "chat.completion.chunk", choices)));
}

TEST(OpenAiJsonTest, WritesTheChunksOfACompletion) {
  const std::string json = Around(ChunkBeginning(Completion()), [](JsonWriter& writer) {
    WriteTextChoice(Endpoint::kCompletions, 0, {.text = "x"}, writer);
    WriteFinishChoice(Endpoint::kCompletions, 0, FinishReason::kCancelled, "", writer);
  });
  const OrderedJson choices = {
      {{"index", 0}, {"text", "x"}, {"logprobs", nullptr}, {"finish_reason", nullptr}},
      {{"index", 0}, {"text", ""}, {"logprobs", nullptr}, {"finish_reason", "cancelled"}}};
  EXPECT_EQ(json, Dump(Expected(Completion(), "text_completion", choices)));
}

TEST(OpenAiJsonTest, WritesWholeAnswers) {
  WholeChoice choice;
  choice.text = "t\xFF";
  choice.ids = {1, 2};
  choice.logprobs = {{"content", {1.5}}};
  const std::string chat = Around(WholeBeginning(kChat), [&](JsonWriter& writer) {
    WriteWholeChoice(Endpoint::kChat, 0, choice, /*with_ids=*/true, writer);
  });
  EXPECT_EQ(chat,
            Dump(Expected(
                kChat, "chat.completion",
                {{{"index", 0},
                  {"message", {{"role", "assistant"}, {"content", "t\xFF"}, {"refusal", nullptr}}},
                  {"logprobs", {{"content", {1.5}}}},
                  {"finish_reason", "stop"},
                  {"token_ids", {1, 2}}}})));
  choice.logprobs = nullptr;
  const std::string completion = Around(WholeBeginning(Completion()), [&](JsonWriter& writer) {
    WriteWholeChoice(Endpoint::kCompletions, 3, choice, /*with_ids=*/false, writer);
  });
  EXPECT_EQ(
      completion,
      Dump(Expected(
          Completion(), "text_completion",
          {{{"index", 3}, {"text", "t\xFF"}, {"logprobs", nullptr}, {"finish_reason", "stop"}}})));
}

TEST(OpenAiJsonTest, WritesUsage) {
  std::string json;
  JsonWriter writer(&json);
  WriteUsage({.prompt_tokens = 9, .completion_tokens = 11, .cached_tokens = 4}, writer);
  EXPECT_EQ(json, R"({"prompt_tokens":9,"completion_tokens":11,"total_tokens":20,)"
                  R"("prompt_tokens_details":{"cached_tokens":4}})");
}

TEST(OpenAiJsonTest, TokensThatAreNoTextKeepNamesOfTheirOwn) {
  const auto model = TextModel::Load(CONCLAVE_SOURCE_DIR "/models/tales", "tales");
  ASSERT_TRUE(model.ok()) << model.status();
  const text::Tokenizer& tokenizer = *(*model)->tokenizer();
  std::vector<int32_t> ids;  // of single bytes that begin a character
  for (int32_t id = 0; id < 4096 && ids.size() < 3; ++id) {
    const auto bytes = tokenizer.TokenBytes(id);
    if (bytes.ok() && bytes->size() == 1 && static_cast<uint8_t>((*bytes)[0]) >= 0xC2)
      ids.push_back(id);
  }
  ASSERT_EQ(ids.size(), 3U);
  PositionLogprobs position{.chosen = -1, .top = {}};
  for (const int32_t id : ids) position.top.emplace_back(id, -1.0f);
  int64_t offset = 0;
  const ChoiceTokens tokens{
      .choice_index = 0, .token_index = 0, .ids = {ids[0]}, .text = "", .logprobs = {position}};
  const OrderedJson json = LogprobsJson(Endpoint::kCompletions, tokens, tokenizer, &offset);
  ASSERT_EQ(json["top_logprobs"][0].size(), 3U);
  const std::string name = json["tokens"][0];
  EXPECT_EQ(name.substr(0, 8), "bytes:\\x");
  EXPECT_EQ(name.size(), 10U);
  EXPECT_TRUE(json["top_logprobs"][0].contains(name));
}

RC_GTEST_PROP(OpenAiJsonTest, AnyTextComesBackAsItWas, ()) {
  // Characters of one to four bytes, and those that JSON escapes.
  const auto parts = *rc::gen::container<std::vector<std::string>>(rc::gen::element<std::string>(
      "a", "\"", "\\", "\n", "\x01", "\x7F", "\xC3\xA9", "\xE2\x82\xAC", "\xF0\x9F\x90\xBA"));
  std::string text;
  for (const std::string& part : parts) text += part;
  const std::string json = Around(ChunkBeginning(kChat), [&](JsonWriter& writer) {
    WriteTextChoice(Endpoint::kChat, 0, {.text = text}, writer);
  });
  RC_ASSERT(OrderedJson::parse(json)["choices"][0]["delta"]["content"] == text);
}

}  // namespace
}  // namespace conclave::gateway

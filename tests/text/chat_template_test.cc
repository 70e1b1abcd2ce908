#include "shared/text/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <chrono>
#include <cstdlib>
#include <ctime>
#include <thread>

#include "tests/text/model_folder.h"

namespace conclave::text {
namespace {

using nlohmann::json;
using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr char kHello[] = R"([{"role": "user", "content": "Hello"}])";

std::shared_ptr<const ChatTemplate> WithTemplate(const std::string& source) {
  ModelFolder folder("qwen3");
  folder.Write("chat_template.jinja", source);
  return LoadChat(folder.path());
}

// Renders `source` for one "Hello" of a user.
absl::StatusOr<std::string> Rendered(const std::string& source, const std::string& variables = "",
                                     const std::string& messages = kHello) {
  const auto chat = WithTemplate(source);
  if (chat == nullptr) return absl::InternalError("did not load");
  auto prompt = chat->Render({.messages_json = messages, .variables_json = variables});
  if (!prompt.ok()) return prompt.status();
  return prompt->text;
}

void ExpectRefused(const absl::Status& status, absl::StatusCode code, const std::string& what) {
  EXPECT_EQ(status.code(), code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(what));
}

TEST(ChatTemplate, AModelWithoutOneSaysToUseCompletions) {
  ModelFolder folder("qwen3");
  folder.Set("tokenizer_config.json", "chat_template", nullptr);
  const auto chat = LoadChat(folder.path());
  ASSERT_NE(chat, nullptr);
  EXPECT_FALSE(chat->available());
  ExpectRefused(chat->Render({.messages_json = kHello}).status(),
                absl::StatusCode::kFailedPrecondition, "use completions");
}

TEST(ChatTemplate, ChoosesAmongNamedTemplates) {
  ModelFolder folder("qwen3");
  folder.Set("tokenizer_config.json", "chat_template",
             json::array({{{"name", "default"}, {"template", "D {{ messages[0].content }}"}},
                          {{"name", "rag"}, {"template", "R {{ messages[0].content }}"}}}));
  const auto chat = LoadChat(folder.path());
  ASSERT_NE(chat, nullptr);
  EXPECT_THAT(chat->names(), ElementsAre("default", "rag"));
  EXPECT_EQ(chat->Render({.messages_json = kHello})->text, "D Hello");
  EXPECT_EQ(chat->Render({.messages_json = kHello, .template_name = "rag"})->text, "R Hello");
  ExpectRefused(chat->Render({.messages_json = kHello, .template_name = "tool_use"}).status(),
                absl::StatusCode::kInvalidArgument, "it has: default, rag");
}

TEST(ChatTemplate, FilesWinOverTheConfig) {
  ModelFolder folder("qwen3");
  folder.Write("chat_template.jinja", "file");
  folder.Write("additional_chat_templates/zed.jinja", "zed");
  folder.Write("additional_chat_templates/rag.jinja", "rag");
  folder.Write("additional_chat_templates/notes.txt", "no template");
  const auto chat = LoadChat(folder.path());
  ASSERT_NE(chat, nullptr);
  EXPECT_THAT(chat->names(), ElementsAre("default", "rag", "zed"));
  EXPECT_EQ(chat->Render({.messages_json = kHello})->text, "file");
  EXPECT_EQ(chat->Render({.messages_json = kHello, .template_name = "zed"})->text, "zed");
}

TEST(ChatTemplate, RefusesATemplateThatDoesNotCompileByFileAndLine) {
  ModelFolder folder("qwen3");
  const auto tokenizer = LoadTokenizer(folder.path());
  folder.Write("chat_template.jinja", "one\n{% for m in messages %}\n{{ m. }}\n{% endfor %}");
  const auto chat = ChatTemplate::Load(folder.path(), tokenizer);
  ExpectRefused(chat.status(), absl::StatusCode::kInvalidArgument, "line 3");
  EXPECT_THAT(std::string(chat.status().message()),
              HasSubstr((folder.path() / "chat_template.jinja").string()));
  for (const json& bad :
       {json(7), json::array({"x"}), json::array({{{"name", "default"}}}),
        json::array({{{"name", "a"}, {"template", "x"}}, {{"name", "a"}, {"template", "y"}}})}) {
    ModelFolder other("qwen3");
    other.Set("tokenizer_config.json", "chat_template", bad);
    EXPECT_EQ(ChatTemplate::Load(other.path(), tokenizer).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(ChatTemplate, TrimsBlocksAsTransformersDoes) {
  EXPECT_EQ(*Rendered("{% for m in messages %}\n  {% if true %}\n  {{ m.role }}\n  {% endif %}\n{% "
                      "endfor %}\n"),
            "  user\n");
  EXPECT_EQ(*Rendered("a{# note #}\nb"), "ab");
  EXPECT_EQ(*Rendered("{{ messages[0].content }} <b>&'\"\n\n"), "Hello <b>&'\"\n");
}

TEST(ChatTemplate, GivesTheSpecialTokensByName) {
  EXPECT_EQ(*Rendered("{{ eos_token }}{{ bos_token }}{{ pad_token }}{{ tools is none }}{{ "
                      "documents is none }}"),
            "<|im_end|><|endoftext|>TrueTrue");
}

TEST(ChatTemplate, PrintsValuesAsPythonDoes) {
  EXPECT_EQ(
      *Rendered("{{ none }} {{ true }} {{ 1.0 }} {{ missing }} {{ 7 // 2 }} {{ 'a' ~ 1 ~ none }}"),
      "None True 1.0  3 a1None");
  EXPECT_EQ(*Rendered("{{ ['a', 1, none] }} {{ {'k': 'v'} }}"), "['a', 1, None] {'k': 'v'}");
}

TEST(ChatTemplate, WritesJsonAsTransformersDoes) {
  const std::string value =
      R"({"value": {"z": 1, "a": [true, null, 1.0, 1e20, 0.00001, -2.5], "s": "<é>\"\\\n\u0001'&", "e": {}, "l": []}})";
  EXPECT_EQ(
      *Rendered("{{ value | tojson }}", value),
      R"({"z": 1, "a": [true, null, 1.0, 1e+20, 1e-05, -2.5], "s": "<é>\"\\\n\u0001'&", "e": {}, "l": []})");
  EXPECT_EQ(
      *Rendered("{{ value | tojson(indent=2) }}", R"({"value": {"b": [1, {}], "a": {"c": 2}}})"),
      "{\n  \"b\": [\n    1,\n    {}\n  ],\n  \"a\": {\n    \"c\": 2\n  }\n}");
  EXPECT_EQ(
      *Rendered("{{ value | tojson(ensure_ascii=True, sort_keys=True, separators=(',', ':')) }}",
                R"({"value": {"b": "é😀", "a": 1}})"),
      R"({"a":1,"b":"\u00e9\ud83d\ude00"})");
  EXPECT_FALSE(Rendered("{{ missing | tojson }}").ok());
}

TEST(ChatTemplate, HasPythonsMethods) {
  EXPECT_EQ(
      *Rendered("{{ ' a b '.strip() }}|{{ 'a,b'.split(',')[-1] }}|{{ 'abc'.startswith('ab') }}|"
                "{{ 'x'.upper() }}|{{ 'a  b'.split() | length }}|{{ 'abc'.removeprefix('a') }}|"
                "{{ 'abc'.removesuffix('c') }}|{{ '\\x1cq\\x1c'.strip() }}|{{ 'aXb'.replace('X', "
                "'-') }}"),
      "a b|b|True|X|2|bc|ab|q|a-b");
  EXPECT_EQ(*Rendered("{% for k, v in messages[0].items() %}{{ k }}={{ v }};{% endfor %}"
                      "{{ messages[0].get('name', 'none given') }}"),
            "role=user;content=Hello;none given");
}

TEST(ChatTemplate, HasLoopControlsMacrosAndGenerationTags) {
  EXPECT_EQ(*Rendered("{% for i in range(9) %}{% if i == 1 %}{% continue %}{% endif %}"
                      "{% if i == 3 %}{% break %}{% endif %}{{ i }}{% endfor %}"),
            "02");
  EXPECT_EQ(*Rendered("{% macro m(x) %}[{{ x }}]{% endmacro %}{{ m('a') }}"), "[a]");
  EXPECT_EQ(*Rendered("a\n{%- generation -%}\n b {% endgeneration %}c {{ '{% generation' }}"),
            "ab c {% generation");
}

TEST(ChatTemplate, ShowsTheTimeOfTheRequest) {
  const auto chat = WithTemplate("{{ strftime_now('%d %b %Y, %H:%M') }}");
  ASSERT_NE(chat, nullptr);
  const int64_t seconds = 1767225600;
  char expected[64];
  const std::time_t time = seconds;
  std::tm local;
  ::localtime_r(&time, &local);
  std::strftime(expected, sizeof(expected), "%d %b %Y, %H:%M", &local);
  EXPECT_EQ(chat->Render({.messages_json = kHello, .unix_seconds = seconds})->text, expected);
  EXPECT_FALSE(chat->Render({.messages_json = kHello})->text.empty());
  EXPECT_EQ(*Rendered("{{ strftime_now('') }}"), "");
}

TEST(ChatTemplate, PassesTheRequestsVariables) {
  const auto chat = LoadChat(FamilyDir("qwen3"));
  ASSERT_NE(chat, nullptr);
  const auto thinking = chat->Render({.messages_json = kHello});
  const auto direct =
      chat->Render({.messages_json = kHello, .variables_json = R"({"enable_thinking": false})"});
  EXPECT_THAT(direct->text, ::testing::EndsWith("assistant\n<think>\n\n</think>\n\n"));
  EXPECT_EQ(direct->text.substr(0, thinking->text.size()), thinking->text);
  EXPECT_THAT(direct->ids, ::testing::Contains(506));  // the template's own <think>
  const auto quiet = chat->Render({.messages_json = kHello, .add_generation_prompt = false});
  EXPECT_THAT(quiet->text, ::testing::EndsWith("Hello<|im_end|>\n"));
}

TEST(ChatTemplate, RefusesVariablesThatTheServerSets) {
  for (const char* name :
       {"messages", "tools", "documents", "add_generation_prompt", "raise_exception"}) {
    ExpectRefused(Rendered("x", json{{name, 1}}.dump()).status(),
                  absl::StatusCode::kInvalidArgument, std::string("chat_template_kwargs.") + name);
  }
  ExpectRefused(Rendered("x", "[1]").status(), absl::StatusCode::kInvalidArgument, "an object");
  ExpectRefused(Rendered("x", "{").status(), absl::StatusCode::kInvalidArgument,
                "chat_template_kwargs");
}

TEST(ChatTemplate, RefusesMalformedMessages) {
  const std::string deep = std::string(100000, '[') + std::string(100000, ']');
  for (const std::string& messages :
       {std::string(""), std::string("{}"), std::string("[]"), std::string("[1]"),
        std::string(R"([{"content": "x"}])"), std::string(R"([{"role": 3}])"),
        std::string("[{\"role\": \"\xFF\"}]"), std::string("[{\"role\": \"user\"}"), deep,
        R"([{"role": "user", "content": )" + deep + "}]"}) {
    SCOPED_TRACE(messages.substr(0, 60));
    ExpectRefused(Rendered("{{ messages }}", "", messages).status(),
                  absl::StatusCode::kInvalidArgument, "messages");
  }
}

TEST(ChatTemplate, ShowsWhatTheTemplateSaysAndNothingElse) {
  const absl::Status raised = Rendered("{{ raise_exception('Only users may speak') }}").status();
  EXPECT_EQ(raised.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(raised.message(), "Only users may speak");
  EXPECT_EQ(Rendered("{% macro m() %}{{ raise_exception('inside') }}{% endmacro %}{{ m() }}")
                .status()
                .message(),
            "inside");
  ExpectRefused(Rendered("\n\n{{ messages[0].name + 'x' }}").status(),
                absl::StatusCode::kInvalidArgument, "line 3");
  ExpectRefused(Rendered("{{ missing.field }}").status(), absl::StatusCode::kInvalidArgument,
                "line 1");
  ExpectRefused(Rendered("{{ nothing() }}").status(), absl::StatusCode::kInvalidArgument, "line 1");
}

TEST(ChatTemplate, StopsATemplateThatRunsOrWritesTooLong) {
  const auto start = std::chrono::steady_clock::now();
  ExpectRefused(
      Rendered("{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}")
          .status(),
      absl::StatusCode::kResourceExhausted, "instructions");
  ExpectRefused(Rendered("{% for i in range(1000) %}{{ 'x' * 1000000 }}{% endfor %}").status(),
                absl::StatusCode::kResourceExhausted, "bytes");
  ExpectRefused(Rendered("{% macro m(n) %}{{ m(n + 1) }}{% endmacro %}{{ m(0) }}").status(),
                absl::StatusCode::kInvalidArgument, "recursion");
  // Generous: the machine may be busy, and an endless loop would not end at all.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));

  ModelFolder folder("qwen3");
  folder.Write("chat_template.jinja", std::string(ChatTemplate::kMaxTemplateBytes + 1, 'x'));
  const auto chat = ChatTemplate::Load(folder.path(), LoadTokenizer(folder.path()));
  ExpectRefused(chat.status(), absl::StatusCode::kInvalidArgument, "the limit is 1048576");
}

TEST(ChatTemplate, SurvivesDeeplyNestedTemplates) {
  for (const std::string& part :
       {std::string("{% if true %}"), std::string("{{ (("), std::string("{{ [[")}) {
    std::string source;
    for (int i = 0; i < 20000; ++i) source += part;
    ModelFolder folder("qwen3");
    folder.Write("chat_template.jinja", source);
    EXPECT_EQ(ChatTemplate::Load(folder.path(), LoadTokenizer(folder.path())).status().code(),
              absl::StatusCode::kInvalidArgument);
  }
}

TEST(ChatTemplate, RefusesTagsThatCompileTooDeep) {
  const auto repeated = [](const std::string& part, int times) {
    std::string text;
    for (int i = 0; i < times; ++i) text += part;
    return text;
  };
  for (const std::string& tag :
       {"{{ " + repeated("-", 100000) + "1 }}", "{{ " + repeated("not ", 100000) + "1 }}",
        "{{ 1" + repeated("|abs", 100000) + " }}", "{{ messages" + repeated("[0]", 100000) + " }}",
        "{{ {'}}': {'%}': 1}}, " + repeated("-", 100000) + "1 }}",
        "{% set x = \"\\\" }}\" ~ " + repeated("-", 100000) + "1 %}"}) {
    ModelFolder folder("qwen3");
    folder.Write("chat_template.jinja", "a\nb" + tag);
    ExpectRefused(ChatTemplate::Load(folder.path(), LoadTokenizer(folder.path())).status(),
                  absl::StatusCode::kInvalidArgument, "line 2");
  }
  EXPECT_TRUE(Rendered("{# " + repeated("-", 100000) + " #}" + repeated("{{ -1 }}", 20000)).ok());
  EXPECT_TRUE(Rendered("{{ '" + repeated("- ", 100000) + "' }}").ok());
}

TEST(ChatTemplate, RendersOnManyThreadsAtOnce) {
  const auto chat = LoadChat(FamilyDir("qwen3"));
  ASSERT_NE(chat, nullptr);
  const json vectors = ReadJson(FamilyDir("qwen3") / "chat_vectors.json");
  std::vector<std::thread> threads;
  std::vector<int> wrong(4, 0);
  for (size_t t = 0; t < wrong.size(); ++t) {
    threads.emplace_back([&, t] {
      for (const json& vector : vectors) {
        const std::string messages = vector["messages"].dump();
        const auto prompt = chat->Render(
            {.messages_json = messages, .add_generation_prompt = vector["add_generation_prompt"]});
        if (!prompt.ok() || prompt->ids != vector["ids"].get<std::vector<int32_t>>()) ++wrong[t];
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_THAT(wrong, ::testing::Each(0));
}

}  // namespace
}  // namespace conclave::text

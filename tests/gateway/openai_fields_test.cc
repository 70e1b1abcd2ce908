// The tables of docs/openai.md, row by row, against a running gateway.
#include "services/gateway/openai_fields.h"

#include <gtest/gtest.h>

#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "tests/gateway/gateway_rig.h"

namespace conclave::gateway {
namespace {

using nlohmann::json;

struct Row {
  std::string field, use, notes;
  json example;
};

std::string Trimmed(std::string text, const char* what = " ") {
  text.erase(0, text.find_first_not_of(what));
  text.erase(text.find_last_not_of(what) + 1);
  return text;
}

// The rows of the table under "### `PATH`".
std::vector<Row> TableOf(const std::string& path) {
  std::ifstream file(CONCLAVE_SOURCE_DIR "/docs/openai.md");
  std::vector<Row> rows;
  std::string line;
  while (std::getline(file, line) && line != "### `" + path + "`") {
  }
  while (std::getline(file, line) && line.rfind("#", 0) != 0 && line.rfind("Defaults:", 0) != 0) {
    if (line.rfind("| `", 0) != 0) continue;
    std::istringstream cells(line.substr(1));
    Row row;
    std::string example;
    std::getline(cells, row.field, '|');
    std::getline(cells, row.use, '|');
    std::getline(cells, example, '|');
    std::getline(cells, row.notes, '|');
    row.field = Trimmed(row.field, " `");
    row.use = Trimmed(row.use);
    row.example = json::parse(Trimmed(example, " `"));
    rows.push_back(std::move(row));
  }
  return rows;
}

// The values that the notes of a refused field say pass: `X` passes, `X` and `Y` pass.
std::vector<json> PassingValues(const std::string& notes) {
  std::vector<json> values;
  const size_t end = notes.find(" pass");
  if (end == std::string::npos) return values;
  size_t open = 0;
  while ((open = notes.find('`', open)) < end) {
    const size_t close = notes.find('`', open + 1);
    values.push_back(json::parse(notes.substr(open + 1, close - open - 1)));
    open = close + 1;
  }
  return values;
}

class OpenAiFieldsTest : public testing::TestWithParam<const char*> {};

TEST_P(OpenAiFieldsTest, TheDocumentationIsTrue) {
  const std::string path = GetParam();
  const Endpoint endpoint = path == "/v1/completions" ? Endpoint::kCompletions : Endpoint::kChat;
  GatewayRig rig({}, [](const v1::StartSequence&) {
    return Script{.ids = {50, 51, 52}, .stop_id = 2};
  });
  rig.ConnectEngines();
  const json base = endpoint == Endpoint::kChat
                        ? json{{"messages", {{{"role", "user"}, {"content", "Hi"}}}}}
                        : json{{"prompt", "Hi"}};
  const auto post = [&](const std::string& field, const json& value, bool with_stream,
                        bool with_logprobs) {
    json body = base;
    if (with_stream) body["stream"] = true;
    if (with_logprobs) body["logprobs"] = true;
    body[field] = value;
    return rig.Post(path, body);
  };
  std::set<std::string> documented;
  for (const Row& row : TableOf(path)) {
    SCOPED_TRACE(row.field);
    documented.insert(row.field);
    const bool with_stream = row.use == "served with `stream`";
    const bool with_logprobs = row.use == "served with `logprobs`";
    const http::RawResponse response = post(row.field, row.example, with_stream, with_logprobs);
    if (row.use == "refused") {
      ASSERT_EQ(response.status, 400) << response.body;
      const json error = json::parse(response.body)["error"];
      EXPECT_EQ(error["param"], row.field);
      EXPECT_EQ(error["code"], "unsupported_field");
      EXPECT_EQ(post(row.field, nullptr, false, false).status, 200);
      for (const json& value : PassingValues(row.notes)) {
        EXPECT_EQ(post(row.field, value, false, false).status, 200) << value;
      }
      continue;
    }
    EXPECT_EQ(response.status, 200) << response.body;
    if (row.use == "ignored") continue;
    // A served field is read: a value of a wrong type is refused by its name.
    const json wrong = row.example.is_boolean() ? json("yes") : json(true);
    const http::RawResponse mistyped = post(row.field, wrong, with_stream, with_logprobs);
    EXPECT_EQ(mistyped.status, 400) << mistyped.body;
    EXPECT_EQ(json::parse(mistyped.body)["error"]["param"], row.field);
  }
  std::set<std::string> known;
  for (const FieldRule& rule : OpenAiFields()) {
    if (rule.endpoints & static_cast<uint8_t>(endpoint)) known.insert(std::string(rule.name));
  }
  EXPECT_EQ(documented, known);
}

TEST_P(OpenAiFieldsTest, UnknownFieldsAreIgnored) {
  GatewayRig rig({}, [](const v1::StartSequence&) { return Script{.ids = {50}, .stop_id = 2}; });
  rig.ConnectEngines();
  const json body = {{"messages", {{{"role", "user"}, {"content", "Hi"}}}},
                     {"prompt", "Hi"},
                     {"no_such_field", {1, 2}}};
  EXPECT_EQ(rig.Post(GetParam(), body).status, 200);
}

INSTANTIATE_TEST_SUITE_P(Endpoints, OpenAiFieldsTest,
                         testing::Values("/v1/chat/completions", "/v1/completions"),
                         [](const auto& info) {
                           return std::string(info.param) == "/v1/completions" ? "Completions"
                                                                               : "Chat";
                         });

}  // namespace
}  // namespace conclave::gateway

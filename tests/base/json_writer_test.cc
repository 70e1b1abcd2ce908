#include "shared/base/json_writer.h"

#include <gtest/gtest.h>
#include <rapidcheck/gtest.h>

#include <nlohmann/json.hpp>

namespace conclave {
namespace {

std::string Written(std::string_view text) {
  std::string json;
  AppendJsonString(text, &json);
  return json;
}

// What the answers' trees are dumped as.
std::string Dumped(const std::string& text) {
  return nlohmann::json(text).dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

TEST(JsonWriterTest, WritesWhatATreeIsDumpedAs) {
  std::string json = "x";
  JsonWriter writer(&json);
  writer.BeginObject();
  writer.Member("text", "a\"b");
  writer.Member("least", INT64_MIN);
  writer.Member("most", UINT64_MAX);
  writer.Member("yes", true);
  writer.Name("none");
  writer.Null();
  writer.Name("list");
  writer.BeginArray();
  writer.Value(-1);
  writer.BeginArray();
  writer.EndArray();
  writer.BeginObject();
  writer.EndObject();
  writer.Value(std::string("z"));
  writer.EndArray();
  writer.Name("made");
  writer.Raw("{\"a\":[1.5]}");
  writer.Member("last", false);
  writer.EndObject();
  const nlohmann::ordered_json tree = {
      {"text", "a\"b"},
      {"least", INT64_MIN},
      {"most", UINT64_MAX},
      {"yes", true},
      {"none", nullptr},
      {"list", {-1, nlohmann::ordered_json::array(), nlohmann::ordered_json::object(), "z"}},
      {"made", {{"a", {1.5}}}},
      {"last", false}};
  EXPECT_EQ(json, "x" + tree.dump());
}

TEST(JsonWriterTest, EscapesEveryByteAsTheLibraryDoes) {
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text = std::string("a") + static_cast<char>(byte) + "z";
    EXPECT_EQ(Written(text), Dumped(text)) << byte;
  }
  EXPECT_EQ(Written(std::string("\0\x1f\x7f\"\\\b\f\n\r\t/", 11)),
            "\"\\u0000\\u001f\x7f\\\"\\\\\\b\\f\\n\\r\\t/\"");
}

TEST(JsonWriterTest, KeepsCharactersAndReplacesWhatIsNone) {
  const char* const kTexts[] = {"",
                                "\xC3\xA9\xE2\x82\xAC\xF0\x9F\x90\xBA",  // é, €, a wolf
                                "\xC3",                                  // cut off
                                "\xE2\x82",
                                "\xF0\x9F\x90",
                                "\xE2\x82z",
                                "\xF0\x9F\xC3\xA9",
                                "\x80\xBF",  // no lead
                                "\xC0\xAF",  // too long for what it says
                                "\xE0\x9F\xBF",
                                "\xF0\x8F\xBF\xBF",
                                "\xED\xA0\x80",      // half of a pair
                                "\xF4\x90\x80\x80",  // beyond the last
                                "\xF5\x80\xFE\xFF"};
  for (const char* const text : kTexts) EXPECT_EQ(Written(text), Dumped(text)) << Dumped(text);
}

RC_GTEST_PROP(JsonWriterTest, EveryStringIsWrittenAsTheLibraryDumpsIt, (const std::string& text)) {
  RC_ASSERT(Written(text) == Dumped(text));
}

RC_GTEST_PROP(JsonWriterTest, EveryBeginningOfCharactersIsWrittenAsTheLibraryDumpsIt, ()) {
  // Bytes at the edges of what may follow each other.
  const auto text = *rc::gen::container<std::string>(rc::gen::map(
      rc::gen::element(0x22, 0x41, 0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xDF, 0xE0,
                       0xE1, 0xEC, 0xED, 0xEE, 0xEF, 0xF0, 0xF1, 0xF3, 0xF4, 0xF5, 0xFF),
      [](int byte) { return static_cast<char>(byte); }));
  RC_ASSERT(Written(text) == Dumped(text));
}

}  // namespace
}  // namespace conclave

#include "services/gateway/strict_json.h"

#include <gtest/gtest.h>

namespace conclave::gateway {
namespace {

TEST(StrictJsonTest, ParsesEveryKindOfValue) {
  const auto parsed = ParseStrictJson(R"({"a":[1,-2,3.5,true,null,"é\n"],"b":{"c":{}}})");
  ASSERT_TRUE(parsed.ok()) << parsed.status();
  EXPECT_EQ(*parsed, nlohmann::json::parse(R"({"a":[1,-2,3.5,true,null,"é\n"],"b":{"c":{}}})"));
  EXPECT_EQ(*ParseStrictJson("18446744073709551615"), 18446744073709551615U);
}

TEST(StrictJsonTest, RefusesWhatIsNoJson) {
  for (const char* text : {"", "{", "[1,]", "{\"a\":NaN}", "{\"a\":Infinity}", "{\"a\":1e999}",
                           "{'a':1}", "{} {}", "{\"a\":01}", "\"\xff\"", "\"\\ud800\"", "nul"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseStrictJson(text).status())) << text;
  }
}

TEST(StrictJsonTest, CallsANumberThatNoDoubleHoldsWhatItIs) {
  const absl::Status status = ParseStrictJson(R"({"temperature":1e400})").status();
  EXPECT_EQ(status.message(), "has a number beyond the range of a double before byte 20");
}

TEST(StrictJsonTest, RefusesDuplicateKeysByName) {
  const absl::Status status = ParseStrictJson(R"({"x":{"seed":1,"b":2,"seed":3}})").status();
  EXPECT_NE(status.message().find("has the key \"seed\" twice"), absl::string_view::npos) << status;
  EXPECT_TRUE(ParseStrictJson(R"([{"a":1},{"a":1}])").ok());
}

TEST(StrictJsonTest, RefusesDeepNesting) {
  const auto nested = [](int depth) {
    return std::string(static_cast<size_t>(depth), '[') +
           std::string(static_cast<size_t>(depth), ']');
  };
  EXPECT_TRUE(ParseStrictJson(nested(kMaxJsonDepth)).ok());
  EXPECT_NE(ParseStrictJson(nested(kMaxJsonDepth + 1)).status().message().find("deeper"),
            absl::string_view::npos);
  EXPECT_FALSE(ParseStrictJson(std::string(1 << 20, '[')).ok());
}

}  // namespace
}  // namespace conclave::gateway

#include "shared/base/log.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "nlohmann/json.hpp"

namespace conclave {
namespace {

using ::testing::HasSubstr;

std::string Logged(const std::function<void()>& body) {
  ::testing::internal::CaptureStderr();
  body();
  return ::testing::internal::GetCapturedStderr();
}

TEST(LogTest, WritesOneTextLine) {
  ASSERT_TRUE(StartLog("engine-0", "info", "text").ok());
  const std::string line = Logged([] {
    LogInfo("request done", {{"request_id", "r-1"},
                             {"tokens", 7},
                             {"ratio", 0.5},
                             {"ok", true},
                             {"traceparent", ""},
                             {"reason", "two words"}});
  });
  EXPECT_THAT(line, ::testing::MatchesRegex(
                        "[0-9]+-[0-9]+-[0-9]+T[0-9]+:[0-9]+:[0-9.]+Z info engine-0: request done "
                        "request_id=r-1 tokens=7 ratio=0.5 ok=true reason=\"two words\"\n"));
}

TEST(LogTest, KeepsALineALine) {
  ASSERT_TRUE(StartLog("engine-0", "info", "text").ok());
  const std::string line = Logged([] { LogError("two\nlines", {{"path", "a\nb"}}); });
  EXPECT_EQ(std::count(line.begin(), line.end(), '\n'), 1);
}

TEST(LogTest, WritesJsonThatParses) {
  ASSERT_TRUE(StartLog("gateway", "info", "json").ok());
  const std::string line = Logged([] {
    LogWarning("say \"hi\"\xff", {{"request_id", "r-2"}, {"tokens", 9}, {"traceparent", ""}});
  });
  const auto value = nlohmann::json::parse(line);
  EXPECT_EQ(value["level"], "warning");
  EXPECT_EQ(value["process"], "gateway");
  EXPECT_EQ(value["request_id"], "r-2");
  EXPECT_EQ(value["tokens"], 9);
  EXPECT_FALSE(value.contains("traceparent"));
  EXPECT_THAT(value["message"].get<std::string>(), HasSubstr("say \"hi\""));
}

TEST(LogTest, LeavesOutWhatIsBelowTheLevel) {
  ASSERT_TRUE(StartLog("gateway", "warning", "text").ok());
  EXPECT_EQ(Logged([] { LogInfo("quiet"); }), "");
  EXPECT_THAT(Logged([] { LogWarning("loud"); }), HasSubstr("loud"));
}

TEST(LogTest, RefusesUnknownLevelsAndFormats) {
  EXPECT_THAT(std::string(StartLog("x", "verbose", "text").message()), HasSubstr("\"verbose\""));
  EXPECT_THAT(std::string(StartLog("x", "info", "xml").message()), HasSubstr("\"xml\""));
}

}  // namespace
}  // namespace conclave

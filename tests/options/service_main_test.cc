#include "shared/options/service_main.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <vector>

namespace conclave {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<bool> Start(std::string_view section, std::vector<const char*> flags,
                           AllOptions* options) {
  flags.insert(flags.begin(), "program");
  return StartService(section, "A service.", static_cast<int>(flags.size()), flags.data(), options);
}

TEST(StartServiceTest, FillsTheOptionsOfItsSection) {
  for (const char* section : {"gateway", "engine", "expert", "controller"}) {
    AllOptions options;
    const auto started = Start(section, {"--log-level=error"}, &options);
    ASSERT_TRUE(started.ok()) << started.status();
    EXPECT_TRUE(*started) << section;
    EXPECT_EQ(options.common.log_level, "error");
  }
}

TEST(StartServiceTest, HelpAndVersionEndTheProgram) {
  AllOptions options;
  EXPECT_EQ(*Start("expert", {"--help"}, &options), false);
  EXPECT_EQ(*Start("controller", {"--version"}, &options), false);
}

TEST(StartServiceTest, RefusesPortsThatOthersReachWithoutASecret) {
  for (const char* section : {"engine", "expert", "controller"}) {
    for (const char* flag : {"--listen=0.0.0.0:0", "--ops-listen=0.0.0.0:0"}) {
      AllOptions options;
      const auto started = Start(section, {flag}, &options);
      ASSERT_FALSE(started.ok()) << section << " " << flag;
      EXPECT_THAT(std::string(started.status().message()), HasSubstr("cluster_secret_file"));
    }
  }
}

TEST(StartServiceTest, RefusesAFlagOfAnotherSection) {
  AllOptions options;
  EXPECT_FALSE(Start("expert", {"--kv-memory=1GiB"}, &options).ok());
}

TEST(ExitCodeTest, PrintsTheErrorAfterTheProgramsName) {
  EXPECT_EQ(ExitCode("engine", absl::OkStatus()), 0);
  testing::internal::CaptureStderr();
  EXPECT_EQ(ExitCode("engine", absl::InvalidArgumentError("no model")), 1);
  EXPECT_EQ(testing::internal::GetCapturedStderr(), "conclave-engine: error: no model\n");
}

}  // namespace
}  // namespace conclave

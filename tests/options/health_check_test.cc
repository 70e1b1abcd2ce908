#include "shared/options/health_check.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <string>
#include <vector>

#include "shared/http/ops_server.h"
#include "shared/options/service_main.h"

namespace conclave {
namespace {

using ::testing::HasSubstr;

TEST(HealthAddressTest, IsTheOpsPortOfTheProgram) {
  AllOptions options;
  EXPECT_EQ(*HealthAddress("gateway", options), options.gateway.ops_listen);
  EXPECT_EQ(*HealthAddress("engine", options), options.engine.ops_listen);
  EXPECT_EQ(*HealthAddress("expert", options), options.expert.ops_listen);
  EXPECT_EQ(*HealthAddress("controller", options), options.controller.ops_listen);
}

TEST(HealthAddressTest, AsksLoopbackWhereEveryInterfaceListens) {
  AllOptions options;
  options.engine.ops_listen = "0.0.0.0:9020";
  EXPECT_EQ(*HealthAddress("engine", options), "127.0.0.1:9020");
  options.engine.ops_listen = "[::]:9020";
  EXPECT_EQ(*HealthAddress("engine", options), "[::1]:9020");
  options.engine.ops_listen = "10.0.0.7:9020";
  EXPECT_EQ(*HealthAddress("engine", options), "10.0.0.7:9020");
}

TEST(HealthAddressTest, RefusesAnOpenPort) {
  AllOptions options;
  options.expert.ops_listen = "127.0.0.1:0";
  const auto address = HealthAddress("expert", options);
  ASSERT_FALSE(address.ok());
  EXPECT_THAT(std::string(address.status().message()), HasSubstr("expert.ops_listen"));
}

// A service's HTTP port, and the command as an image runs it.
class CheckHealthTest : public ::testing::Test {
 protected:
  void SetUp() override {
    auto server = http::OpsServer::Start({.listen = "127.0.0.1:0",
                                          .readiness =
                                              [this] {
                                                http::Readiness now{.ready = ready_, .missing = {}};
                                                if (!ready_)
                                                  now.missing = {"no engine has stepped"};
                                                return now;
                                              },
                                          .registry = &registry_});
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = std::move(*server);
  }

  absl::StatusOr<bool> Check(const std::string& listen) {
    const std::string flag = "--ops-listen=" + listen;
    const std::vector<const char*> argv = {"conclave-expert", "--check-health", flag.c_str()};
    AllOptions options;
    return StartService("expert", "A service.", static_cast<int>(argv.size()), argv.data(),
                        &options);
  }

  metrics::Registry registry_;
  std::atomic<bool> ready_{false};
  std::unique_ptr<http::OpsServer> server_;
};

TEST_F(CheckHealthTest, SaysWhatAServiceMisses) {
  const auto checked = Check(server_->address());
  ASSERT_EQ(checked.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(checked.status().message()), HasSubstr("503"));
  EXPECT_THAT(std::string(checked.status().message()), HasSubstr("no engine has stepped"));
}

TEST_F(CheckHealthTest, EndsTheProgramWellWhenTheServiceIsReady) {
  ready_ = true;
  const auto checked = Check(server_->address());
  ASSERT_TRUE(checked.ok()) << checked.status();
  EXPECT_FALSE(*checked);
}

TEST_F(CheckHealthTest, FailsWhenNobodyListens) {
  const std::string address = server_->address();
  server_.reset();
  EXPECT_EQ(Check(address).status().code(), absl::StatusCode::kUnavailable);
}

TEST_F(CheckHealthTest, RefusesWrongSettingsAsTheServiceDoes) {
  const auto checked = Check("nowhere");
  ASSERT_FALSE(checked.ok());
  EXPECT_THAT(std::string(checked.status().message()), HasSubstr("ops_listen"));
}

}  // namespace
}  // namespace conclave

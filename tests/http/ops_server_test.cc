#include "shared/http/ops_server.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <nlohmann/json.hpp>

#include "tests/http/raw_client.h"

namespace conclave::http {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

RawResponse Get(const OpsServer& server, const std::string& path) {
  RawClient client(server.address());
  client.Send("GET " + path + " HTTP/1.1\r\nHost: localhost\r\n\r\n");
  return client.ReadResponse();
}

TEST(OpsServerTest, SaysWhatIsMissingUntilReady) {
  metrics::Registry registry;
  std::atomic<bool> ready{false};
  const auto server =
      OpsServer::Start({.listen = "127.0.0.1:0",
                        .readiness =
                            [&] {
                              Readiness now{.ready = ready, .missing = {}};
                              if (!ready) now.missing = {"layer 1 expert 3 has no live worker"};
                              return now;
                            },
                        .registry = &registry});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_EQ(Get(**server, "/livez").status, 200);
  const RawResponse missing = Get(**server, "/readyz");
  EXPECT_EQ(missing.status, 503);
  EXPECT_EQ(nlohmann::json::parse(missing.body),
            nlohmann::json::parse(
                R"({"ready":false,"missing":["layer 1 expert 3 has no live worker"]})"));
  ready = true;
  const RawResponse all = Get(**server, "/readyz");
  EXPECT_EQ(all.status, 200);
  EXPECT_EQ(nlohmann::json::parse(all.body),
            nlohmann::json::parse(R"({"ready":true,"missing":[]})"));
}

TEST(OpsServerTest, NotesHinderNothing) {
  metrics::Registry registry;
  const auto server = OpsServer::Start(
      {.listen = "127.0.0.1:0",
       .readiness =
           [] { return Readiness{.ready = true, .missing = {}, .notes = {"no controller"}}; },
       .registry = &registry});
  ASSERT_TRUE(server.ok()) << server.status();
  const RawResponse response = Get(**server, "/readyz");
  EXPECT_EQ(response.status, 200);
  EXPECT_EQ(nlohmann::json::parse(response.body),
            nlohmann::json::parse(R"({"ready":true,"missing":[],"notes":["no controller"]})"));
}

TEST(OpsServerTest, ExposesMetrics) {
  metrics::Registry registry;
  registry.GetGauge("conclave_requests_running").Set(3);
  const auto server = OpsServer::Start(
      {.listen = "127.0.0.1:0", .readiness = [] { return Readiness{}; }, .registry = &registry});
  ASSERT_TRUE(server.ok()) << server.status();
  const RawResponse response = Get(**server, "/metrics");
  EXPECT_EQ(response.status, 200);
  EXPECT_NE(response.body.find("conclave_requests_running 3"), std::string::npos) << response.body;
  EXPECT_NE(response.body.find("conclave_build_info{"), std::string::npos) << response.body;
  EXPECT_NE(response.body.find("conclave_ready 0"), std::string::npos) << response.body;
  EXPECT_EQ(Get(**server, "/v1/models").status, 404);
}

TEST(OpsServerTest, TellsReadinessAsAMetric) {
  metrics::Registry registry;
  const auto server =
      OpsServer::Start({.listen = "127.0.0.1:0",
                        .readiness = [] { return Readiness{.ready = true, .missing = {}}; },
                        .registry = &registry});
  ASSERT_TRUE(server.ok()) << server.status();
  EXPECT_NE(Get(**server, "/metrics").body.find("conclave_ready 1"), std::string::npos);
}

TEST(OpsServerTest, AnAddressInUseIsNamedWithItsSetting) {
  metrics::Registry registry;
  OpsServer::Options options = {
      .listen = "127.0.0.1:0", .readiness = [] { return Readiness{}; }, .registry = &registry};
  const auto first = OpsServer::Start(options);
  ASSERT_TRUE(first.ok()) << first.status();
  options.listen = (*first)->address();
  const absl::Status refused = OpsServer::Start(options).status();
  EXPECT_TRUE(absl::IsUnavailable(refused)) << refused;
  EXPECT_THAT(
      std::string(refused.message()),
      AllOf(HasSubstr("ops server cannot listen on " + options.listen), HasSubstr("--ops-listen")));
}

}  // namespace
}  // namespace conclave::http

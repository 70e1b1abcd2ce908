#include "shared/options/options.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <filesystem>
#include <fstream>
#include <set>

namespace conclave {
namespace {

using ::testing::HasSubstr;

TEST(SecretExposureTest, NamesWhoMayReadTheFile) {
  CommonOptions common;
  EXPECT_EQ(SecretExposure(common), "");
  common.cluster_secret_file = ::testing::TempDir() + "options_test_secret";
  std::ofstream(common.cluster_secret_file) << "a secret of sixteen bytes";
  for (const auto& [mode, wanted] : {std::pair<mode_t, std::string>{0600, ""},
                                     {0640, "can be read by its group"},
                                     {0644, "can be read by everybody"}}) {
    ASSERT_EQ(chmod(common.cluster_secret_file.c_str(), mode), 0);
    const std::string found = SecretExposure(common);
    EXPECT_EQ(found.empty(), wanted.empty()) << found;
    EXPECT_NE(found.find(wanted), std::string::npos) << found;
  }
  std::filesystem::remove(common.cluster_secret_file);
}

TEST(AllOptionsTest, DefaultsAreValid) {
  const AllOptions options;
  for (const char* section : {"gateway", "engine", "expert", "controller", "up"}) {
    EXPECT_EQ(options.Validate(section), absl::OkStatus()) << section;
  }
}

TEST(AllOptionsTest, HostsMayHaveAnAsteriskForTheFirstLabel) {
  AllOptions options;
  options.gateway.allowed_hosts = "a.example, *.llm.example,2001:db8::1";
  EXPECT_TRUE(options.Validate("gateway").ok()) << options.Validate("gateway");
}

TEST(AllOptionsTest, BindsEachKeyOnce) {
  AllOptions options;
  Settings settings("conclave", "*", "");
  options.Bind(settings);
  std::set<std::string> keys;
  for (const Settings::Row& row : settings.Rows()) {
    EXPECT_TRUE(keys.insert(row.key).second) << row.key;
    EXPECT_FALSE(row.help.empty()) << row.key;
  }
  EXPECT_TRUE(keys.contains("engine.kv_memory"));
  EXPECT_TRUE(keys.contains("controller_address"));
}

struct Bad {
  const char* section;
  void (*change)(AllOptions&);
  const char* message;
};
class BadOptionsTest : public ::testing::TestWithParam<Bad> {};

TEST_P(BadOptionsTest, AreNamed) {
  AllOptions options;
  GetParam().change(options);
  const absl::Status status = options.Validate(GetParam().section);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(
    All, BadOptionsTest,
    ::testing::Values(
        Bad{"engine", [](AllOptions& o) { o.common.numerics = "fp4"; }, "numerics is \"fp4\""},
        Bad{"engine", [](AllOptions& o) { o.common.controller = "here"; }, "controller_address"},
        Bad{"engine", [](AllOptions& o) { o.common.cluster_id = "a b"; }, "cluster_id is \"a b\""},
        Bad{"engine", [](AllOptions& o) { o.engine.name = "a/b"; }, "engine.name is \"a/b\""},
        Bad{"engine", [](AllOptions& o) { o.engine.name = ""; }, "engine.name"},
        Bad{"engine", [](AllOptions& o) { o.engine.threads = -1; }, "engine.threads is -1"},
        Bad{"engine", [](AllOptions& o) { o.engine.context = -1; }, "engine.context"},
        Bad{"engine", [](AllOptions& o) { o.engine.step_budget_ms = 0; }, "engine.step_budget_ms"},
        Bad{"engine", [](AllOptions& o) { o.engine.prefill_budget_ms = -1; },
            "engine.prefill_budget_ms"},
        Bad{"engine", [](AllOptions& o) { o.engine.experts = "cloud"; }, "engine.experts"},
        Bad{"engine", [](AllOptions& o) { o.engine.listen = "0.0.0.0:8020"; },
            "cluster_secret_file"},
        Bad{"engine", [](AllOptions& o) { o.engine.ops_listen = "[::]:9020"; },
            "engine.ops_listen is [::]:9020"},
        Bad{"gateway", [](AllOptions& o) { o.gateway.http_listen = "0.0.0.0:80"; },
            "gateway.http_listen"},
        Bad{"gateway", [](AllOptions& o) { o.gateway.max_body.bytes = 3; }, "gateway.max_body"},
        Bad{"gateway", [](AllOptions& o) { o.gateway.allowed_hosts = "a.example,*"; },
            "gateway.allowed_hosts has \"*\""},
        Bad{"gateway", [](AllOptions& o) { o.gateway.allowed_hosts = "a.*.example"; },
            "gateway.allowed_hosts has \"a.*.example\""},
        Bad{"expert", [](AllOptions& o) { o.expert.cpu_level = "sse9"; }, "expert.cpu_level"},
        Bad{"expert", [](AllOptions& o) { o.expert.max_queue_mib = 0; }, "expert.max_queue_mib"},
        Bad{"controller", [](AllOptions& o) { o.controller.lease_ms = 900; }, "two reports"},
        Bad{"controller", [](AllOptions& o) { o.controller.lease_name = "My Lease"; },
            "controller.lease_name is \"My Lease\""},
        Bad{"up", [](AllOptions& o) { o.up.engines = 0; }, "up.engines is 0"}));

TEST(CheckListenTest, TakesOtherAddressesWithASecretOrInsecure) {
  CommonOptions common;
  EXPECT_TRUE(CheckListen("engine.listen", "127.0.0.1:0", common).ok());
  EXPECT_FALSE(CheckListen("engine.listen", "10.0.0.1:0", common).ok());
  common.insecure = true;
  EXPECT_TRUE(CheckListen("engine.listen", "10.0.0.1:0", common).ok());
  common.insecure = false;
  common.cluster_secret_file = "/etc/conclave/secret";
  EXPECT_TRUE(CheckListen("engine.listen", "10.0.0.1:0", common).ok());
}

TEST(ApiListenTest, BeyondLoopbackStrangersNeedAKeyOrTheApiIsEncrypted) {
  AllOptions options;
  options.common.cluster_secret_file = "/etc/conclave/secret";  // clients do not show it
  for (std::string* const listen : {&options.gateway.http_listen, &options.gateway.grpc_listen}) {
    *listen = "10.0.0.1:8000";
    options.gateway.keys_file.clear();
    options.gateway.tls.cert.clear();
    const absl::Status refused = options.Validate("gateway");
    EXPECT_TRUE(absl::IsInvalidArgument(refused)) << refused;
    for (const char* const setting : {"is 10.0.0.1:8000", "gateway.keys_file",
                                      "gateway.server_cert_file", "insecure", "127.0.0.1"}) {
      EXPECT_THAT(std::string(refused.message()), HasSubstr(setting));
    }
    EXPECT_THAT(options.ApiExposure(),
                HasSubstr("nobody has to show a key; set gateway.keys_file"));
    options.common.insecure = true;
    EXPECT_TRUE(options.Validate("gateway").ok());
    EXPECT_NE(options.ApiExposure(), "");
    options.common.insecure = false;
    options.gateway.keys_file = "/etc/conclave/keys.json";
    EXPECT_TRUE(options.Validate("gateway").ok());
    EXPECT_THAT(options.ApiExposure(),
                HasSubstr("can be read on the way; set gateway.server_cert"));
    options.gateway.tls.cert = "/etc/conclave/server.crt";
    EXPECT_TRUE(options.Validate("gateway").ok());
    EXPECT_EQ(options.ApiExposure(), "");
    options.gateway.keys_file.clear();
    EXPECT_TRUE(options.Validate("gateway").ok());
    EXPECT_THAT(options.ApiExposure(), HasSubstr("nobody has to show a key"));
    *listen = "127.0.0.1:8000";
    EXPECT_EQ(options.ApiExposure(), "");
  }
}

TEST(ApiListenTest, TheOpsPortNeedsWhatAllOthersNeed) {
  AllOptions options;
  options.gateway.keys_file = "/etc/conclave/keys.json";
  options.gateway.ops_listen = "10.0.0.1:9000";
  EXPECT_THAT(std::string(options.Validate("gateway").message()), HasSubstr("gateway.ops_listen"));
}

TEST(StateDirTest, ASettingComesFirst) {
  CommonOptions common;
  common.state_dir = "/var/lib/x";
  EXPECT_EQ(StateDir(common), "/var/lib/x");
  common.state_dir.clear();
  EXPECT_THAT(StateDir(common), HasSubstr("conclave"));
}

}  // namespace
}  // namespace conclave

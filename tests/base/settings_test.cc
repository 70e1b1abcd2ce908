#include "shared/base/settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>

namespace conclave {
namespace {

using ::testing::HasSubstr;

// Sets a variable for the life of the object.
class ScopedVariable {
 public:
  ScopedVariable(std::string name, const std::string& value) : name_(std::move(name)) {
    setenv(name_.c_str(), value.c_str(), 1);
  }
  ~ScopedVariable() { unsetenv(name_.c_str()); }

 private:
  const std::string name_;
};

class SettingsTest : public ::testing::Test {
 protected:
  SettingsTest() : settings_("conclave-engine", "engine", "holds attention") {
    settings_.Add("", "model", &model_, "checkpoint folder");
    settings_.Add("engine", "kv_memory", &kv_memory_, "KV cache, bytes");
    settings_.Add("engine", "threads", &threads_, "compute threads");
    settings_.Add("engine", "budget_ms", &budget_ms_, "step length, ms");
    settings_.Add("engine", "fast", &fast_, "skip the slow way");
    settings_.Add("engine", "context", &context_, "tokens");
    settings_.Add("engine", "admin_token", &token_, "who may");
    settings_.Add("expert", "threads", &expert_threads_, "compute threads");
  }

  absl::Status Parse(std::vector<const char*> flags) {
    flags.insert(flags.begin(), "conclave-engine");
    return settings_.Parse(static_cast<int>(flags.size()), flags.data(), &exit_now_);
  }

  // Writes the settings file and returns its path.
  std::string File(const std::string& text) {
    const std::string path = ::testing::TempDir() + "settings_test_" +
                             ::testing::UnitTest::GetInstance()->current_test_info()->name() +
                             ".yaml";
    std::ofstream(path) << text;
    return path;
  }

  std::string Source(const std::string& key) const {
    for (const Settings::Row& row : settings_.Rows()) {
      if (row.key == key) return row.source;
    }
    return "no such key";
  }

  Settings settings_;
  std::string model_ = "none";
  ByteSize kv_memory_;
  int32_t threads_ = 2;
  double budget_ms_ = 50;
  bool fast_ = false;
  int64_t context_ = 0;
  std::string token_;
  int32_t expert_threads_ = 1;
  bool exit_now_ = false;
};

TEST_F(SettingsTest, KeepsDefaultsWhenNothingIsGiven) {
  ASSERT_TRUE(Parse({}).ok());
  EXPECT_EQ(model_, "none");
  EXPECT_EQ(threads_, 2);
  EXPECT_EQ(Source("engine.threads"), "default");
  EXPECT_FALSE(exit_now_);
}

TEST_F(SettingsTest, FlagBeatsEnvironmentBeatsFile) {
  const std::string path =
      File("model: from-file\nengine:\n  threads: 3\n  budget_ms: 7.5\nexpert:\n  threads: 9\n");
  const ScopedVariable model("CONCLAVE_MODEL", "from-env");
  const ScopedVariable threads("CONCLAVE_ENGINE_THREADS", "4");
  ASSERT_EQ(Parse({"--config", path.c_str(), "--threads", "5", "--kv-memory=2GiB", "--fast"}),
            absl::OkStatus());
  EXPECT_EQ(threads_, 5);
  EXPECT_EQ(model_, "from-env");
  EXPECT_EQ(budget_ms_, 7.5);
  EXPECT_EQ(expert_threads_, 9);
  EXPECT_EQ(kv_memory_.bytes, int64_t{2} << 30);
  EXPECT_TRUE(fast_);
  EXPECT_EQ(Source("engine.threads"), "flag --threads");
  EXPECT_EQ(Source("model"), "env CONCLAVE_MODEL");
  EXPECT_EQ(Source("engine.budget_ms"), "file " + path + ":4");
  EXPECT_EQ(settings_.config_file(), path);
}

TEST_F(SettingsTest, NamesTheNearestFlag) {
  const absl::Status status = Parse({"--kv-memroy", "1GiB"});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--kv-memroy"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("--kv-memory"));
}

TEST_F(SettingsTest, NamesTheNearestVariable) {
  const ScopedVariable wrong("CONCLAVE_ENGINE_TREADS", "4");
  const absl::Status status = Parse({});
  EXPECT_THAT(std::string(status.message()), HasSubstr("CONCLAVE_ENGINE_TREADS"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("CONCLAVE_ENGINE_THREADS"));
}

TEST_F(SettingsTest, PassesOverKubernetesServiceLinks) {
  const ScopedVariable host("CONCLAVE_GATEWAY_SERVICE_HOST", "10.0.0.1");
  const ScopedVariable port("CONCLAVE_GATEWAY_PORT_8000_TCP_ADDR", "10.0.0.1");
  EXPECT_EQ(Parse({}), absl::OkStatus());
}

TEST_F(SettingsTest, NamesTheNearestKeyWithItsLine) {
  const std::string path = File("model: x\nengine:\n  treads: 3\n");
  const absl::Status status = Parse({"--config", path.c_str()});
  EXPECT_THAT(std::string(status.message()), HasSubstr(path + ":3"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"treads\""));
  EXPECT_THAT(std::string(status.message()), HasSubstr("\"threads\""));
}

TEST_F(SettingsTest, RefusesAnUnknownSection) {
  const std::string path = File("egnine:\n  threads: 3\n");
  EXPECT_THAT(std::string(Parse({"--config", path.c_str()}).message()), HasSubstr("\"engine\""));
}

TEST_F(SettingsTest, RefusesAKeyThatIsSetTwice) {
  const std::string path = File("engine:\n  threads: 3\n  threads: 4\n");
  const absl::Status status = Parse({"--config", path.c_str()});
  EXPECT_THAT(std::string(status.message()), HasSubstr(":3: engine.threads is set twice"));
}

TEST_F(SettingsTest, RefusesWhatIsNotAScalar) {
  const std::string list = File("engine:\n  threads: [1, 2]\n");
  EXPECT_THAT(std::string(Parse({"--config", list.c_str()}).message()), HasSubstr("a list"));
}

TEST_F(SettingsTest, RefusesAScalarForASection) {
  const std::string path = File("engine: 3\n");
  EXPECT_THAT(std::string(Parse({"--config", path.c_str()}).message()), HasSubstr("is a section"));
}

TEST_F(SettingsTest, RefusesTextThatIsNotYaml) {
  const std::string path = File("model: x\nengine: [1,\n");
  EXPECT_THAT(std::string(Parse({"--config", path.c_str()}).message()), HasSubstr("not YAML"));
}

TEST_F(SettingsTest, RefusesAMissingFile) {
  EXPECT_THAT(std::string(Parse({"--config", "/nowhere/c.yaml"}).message()),
              HasSubstr("/nowhere/c.yaml"));
}

TEST_F(SettingsTest, RefusesAFolder) {
  EXPECT_THAT(std::string(Parse({"--config", "/"}).message()), HasSubstr("give --config a YAML"));
}

TEST_F(SettingsTest, TakesAnEmptyFile) {
  const std::string path = File("# nothing yet\n");
  EXPECT_EQ(Parse({"--config", path.c_str()}), absl::OkStatus());
}

struct BadValue {
  const char* flag;
  const char* message;
};
class SettingsBadValueTest : public SettingsTest, public ::testing::WithParamInterface<BadValue> {};

TEST_P(SettingsBadValueTest, IsRefusedByName) {
  const absl::Status status = Parse({GetParam().flag});
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr(GetParam().message));
}

INSTANTIATE_TEST_SUITE_P(All, SettingsBadValueTest,
                         ::testing::Values(BadValue{"--threads=2x", "\"2x\" is not a whole number"},
                                           BadValue{"--threads=",
                                                    "--threads: \"\" is not a whole number"},
                                           BadValue{"--threads=1e3", "not a whole number"},
                                           BadValue{"--threads=99999999999", "out of range"},
                                           BadValue{"--budget-ms=nan", "not a finite number"},
                                           BadValue{"--budget-ms=1e999", "out of range"},
                                           BadValue{"--fast=perhaps", "neither true nor false"},
                                           BadValue{"--kv-memory=2 gigs", "not a number of bytes"},
                                           BadValue{"--kv-memory=-1", "not a number of bytes"},
                                           BadValue{"--kv-memory=1e30", "not a number of bytes"},
                                           BadValue{"stray", "\"stray\" is not a flag"}));

TEST_F(SettingsTest, RefusesAFlagGivenTwice) {
  EXPECT_THAT(std::string(Parse({"--threads=2", "--threads=3"}).message()),
              HasSubstr("flag --threads is given more than once"));
}

TEST_F(SettingsTest, AnEmptyValueTakesNothingOfWhatFollows) {
  for (const std::vector<const char*>& flags :
       {std::vector<const char*>{"--model=", "--threads=3"}, {"--model", "", "--threads=3"}}) {
    threads_ = 0;
    ASSERT_EQ(Parse(flags), absl::OkStatus());
    EXPECT_EQ(model_, "");
    EXPECT_EQ(threads_, 3);
  }
}

TEST_F(SettingsTest, AFlagIsNoValueOfAnother) {
  EXPECT_THAT(std::string(Parse({"--model", "--threads", "3"}).message()),
              HasSubstr("flag --model wants a value and is followed by the flag --threads"));
  EXPECT_THAT(std::string(Parse({"--model"}).message()), HasSubstr("flag --model wants a value"));
  EXPECT_THAT(std::string(Parse({"--fast="}).message()),
              HasSubstr("flag --fast has an empty value"));
  EXPECT_THAT(std::string(Parse({"--config="}).message()), HasSubstr("--config wants a file"));
  ASSERT_EQ(Parse({"--model=--threads", "--"}), absl::OkStatus());
  EXPECT_EQ(model_, "--threads");
}

TEST_F(SettingsTest, RefusesASecondDocument) {
  const std::string path = File("model: x\n---\nengine:\n  threads: 3\n");
  EXPECT_THAT(std::string(Parse({"--config", path.c_str()}).message()),
              HasSubstr(path + ": has 2 YAML documents"));
  EXPECT_EQ(Parse({"--config", File("---\nmodel: x\n---\n").c_str()}), absl::OkStatus());
}

TEST_F(SettingsTest, AnErrorOfAValueSaysWhereItComesFrom) {
  const std::string path = File("model: x\nengine:\n  threads: 3\n");
  ASSERT_EQ(Parse({"--config", path.c_str()}), absl::OkStatus());
  const auto named = [&](const char* message) {
    return std::string(NameSource(absl::InvalidArgumentError(message), settings_.Rows()).message());
  };
  EXPECT_EQ(named("engine.threads is 3; it may be 4"),
            "file " + path + ":3: engine.threads is 3; it may be 4");
  EXPECT_EQ(named("engine.budget_ms is 1"), "engine.budget_ms is 1") << "a default has no source";
  EXPECT_EQ(named("no model"), "no model");
  EXPECT_EQ(NameSource(absl::OkStatus(), settings_.Rows()), absl::OkStatus());
}

TEST_F(SettingsTest, TakesNegativeNumbers) {
  ASSERT_EQ(Parse({"--context", "-5"}), absl::OkStatus());
  EXPECT_EQ(context_, -5);
}

TEST_F(SettingsTest, HelpHasUnitAndDefaultOfItsOwnSectionAlone) {
  const std::string help = settings_.Help();
  EXPECT_THAT(help, HasSubstr("--budget-ms VALUE"));
  EXPECT_THAT(help, HasSubstr("step length, ms [50]"));
  EXPECT_THAT(help, HasSubstr("KV cache, bytes [auto]"));
  EXPECT_THAT(help, ::testing::Not(HasSubstr("expert:")));
  ::testing::internal::CaptureStdout();
  ASSERT_TRUE(Parse({"--help"}).ok());
  EXPECT_EQ(::testing::internal::GetCapturedStdout(), help);
  EXPECT_TRUE(exit_now_);
}

TEST_F(SettingsTest, VersionNamesProgramAndCommit) {
  ::testing::internal::CaptureStdout();
  ASSERT_TRUE(Parse({"--version"}).ok());
  EXPECT_THAT(::testing::internal::GetCapturedStdout(),
              ::testing::MatchesRegex("conclave-engine [0-9.]+ \\(commit [^)]+\\)\n"));
  EXPECT_TRUE(exit_now_);
}

TEST_F(SettingsTest, HidesSecretsInRows) {
  ASSERT_TRUE(Parse({"--admin-token", "s3cr3t"}).ok());
  EXPECT_EQ(token_, "s3cr3t");
  for (const Settings::Row& row : settings_.Rows()) {
    EXPECT_NE(row.value, "s3cr3t");
    if (row.key == "engine.admin_token") {
      EXPECT_EQ(row.value, "***");
    }
  }
}

TEST(SettingsOfAllSectionsTest, PutTheSectionBeforeTheFlag) {
  int32_t engine = 0, expert = 0;
  Settings settings("conclave up", "*", "starts all");
  settings.Add("engine", "threads", &engine, "threads");
  settings.Add("expert", "threads", &expert, "threads");
  const char* flags[] = {"up", "--engine-threads=3", "--expert-threads=4"};
  bool exit_now = false;
  ASSERT_EQ(settings.Parse(3, flags, &exit_now), absl::OkStatus());
  EXPECT_EQ(engine, 3);
  EXPECT_EQ(expert, 4);
}

}  // namespace
}  // namespace conclave

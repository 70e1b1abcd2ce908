#include "shared/identity/key_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <set>

#include "shared/base/json_file.h"
#include "tests/support/temp_dir.h"

namespace conclave::identity {
namespace {

TEST(KeyFileTest, AKeyMatchesItsOwnSecretAlone) {
  const DrawnKey a = DrawKey(), b = DrawKey();
  EXPECT_NE(a.text, b.text);
  const std::optional<KeyParts> parts = SplitKey(a.text);
  ASSERT_TRUE(parts.has_value());
  EXPECT_EQ(parts->id, a.record.id);
  EXPECT_TRUE(Matches(a.record, parts->secret));
  EXPECT_FALSE(Matches(b.record, parts->secret));
  EXPECT_FALSE(Matches(a.record, ""));
  std::string wrong(parts->secret);
  wrong.back() = wrong.back() == '0' ? '1' : '0';
  EXPECT_FALSE(Matches(a.record, wrong));
}

TEST(KeyFileTest, RefusesOtherForms) {
  const std::string text = DrawKey().text;
  for (const std::string& other :
       {std::string(), std::string("sk-abc"), text.substr(1), text + "0", text.substr(0, 11),
        "xx" + text.substr(2), text.substr(0, 11) + "_" + text.substr(12)}) {
    EXPECT_FALSE(SplitKey(other).has_value()) << other;
  }
}

TEST(KeyFileTest, IsReadAsWritten) {
  const conclave::testing::TempDir dir;
  const std::string path = dir.path() / "keys.json";
  KeyFile file;
  file.tenants.push_back({.name = "acme",
                          .weight = 2.5,
                          .top_class = QosClass::kBatch,
                          .max_running = 7,
                          .shares_cache = true});
  DrawnKey drawn = DrawKey();
  drawn.record.tenant = "acme";
  drawn.record.note = "the \"first\" one";
  drawn.record.created_unix_s = 1'800'000'000;
  drawn.record.expires_unix_s = 1'900'000'000;
  drawn.record.models = {"tales"};
  drawn.record.classes = {QosClass::kBatch, QosClass::kSheddable};
  drawn.record.requests_per_minute = 60;
  drawn.record.tokens_per_minute = 10'000;
  file.keys.push_back(drawn.record);
  file.keys.push_back(DrawKey().record);
  file.keys.back().tenant = "other";
  file.keys.back().revoked_unix_s = 5;
  ASSERT_TRUE(WriteKeyFile(path, file).ok());
  struct stat status;
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0600U);
  EXPECT_EQ(ReadFile(path)->find(drawn.text.substr(12)), std::string::npos) << "the secret";

  const absl::StatusOr<KeyFile> read = ReadKeyFile(path);
  ASSERT_TRUE(read.ok()) << read.status();
  ASSERT_EQ(read->tenants.size(), 1U);
  EXPECT_EQ(read->tenants[0].weight, 2.5);
  EXPECT_EQ(read->tenants[0].top_class, QosClass::kBatch);
  EXPECT_EQ(read->tenants[0].max_running, 7);
  EXPECT_TRUE(read->tenants[0].shares_cache);
  ASSERT_EQ(read->keys.size(), 2U);
  const KeyRecord& key = read->keys[0];
  EXPECT_EQ(key.id, drawn.record.id);
  EXPECT_EQ(key.note, drawn.record.note);
  EXPECT_EQ(key.expires_unix_s, drawn.record.expires_unix_s);
  EXPECT_EQ(key.models, drawn.record.models);
  EXPECT_EQ(key.classes, drawn.record.classes);
  EXPECT_EQ(key.requests_per_minute, 60);
  EXPECT_EQ(key.tokens_per_minute, 10'000);
  EXPECT_TRUE(Matches(key, SplitKey(drawn.text)->secret));
  EXPECT_EQ(read->keys[1].revoked_unix_s, 5);
}

TEST(KeyFileTest, StaysReadableToWhoCouldReadIt) {
  const conclave::testing::TempDir dir;
  const std::string path = dir.path() / "keys.json";
  ASSERT_TRUE(WriteKeyFile(path, {}).ok());
  ASSERT_EQ(chmod(path.c_str(), 0640), 0);
  ASSERT_TRUE(WriteKeyFile(path, {}).ok());
  struct stat status;
  ASSERT_EQ(stat(path.c_str(), &status), 0);
  EXPECT_EQ(status.st_mode & 0777, 0640U);
}

TEST(KeyFileTest, NamesWhatIsWrong) {
  const DrawnKey drawn = DrawKey();
  const std::string good = R"({"id":")" + drawn.record.id + R"(","tenant":"t","salt":")" +
                           drawn.record.salt + R"(","hash":")" + drawn.record.hash + "\"";
  const auto keys = [](const std::string& text) {
    return R"({"version":1,"keys":[)" + text + "]}";
  };
  ASSERT_TRUE(ParseKeyFile(keys(good + "}"), "f").ok());
  const struct {
    std::string text, wanted;
  } kCases[] = {
      {"", "f is no JSON object"},
      {"[]", "f is no JSON object"},
      {std::string(200, '['), "f is no JSON object"},
      {R"({"version":2})", "version is 2, this program reads 1"},
      {R"({})", "version is 0"},
      {R"({"version":1,"key":[]})", "\"key\" is unknown"},
      {R"({"version":1,"keys":{}})", "\"keys\" is unknown or of a wrong type"},
      {keys("7"), "keys[0]: expected an object"},
      {keys("{}"), "keys[0], id: expected a string, but it is missing"},
      {keys(good + R"(,"expires":"soon"})"), "keys[0], expires: expected seconds since 1970"},
      {keys(good + R"(,"expires":-1})"), "expires: expected seconds since 1970"},
      {keys(good + R"(,"classes":["urgent"]})"), "classes: expected realtime, interactive"},
      {keys(good + R"(,"models":[1]})"), "models: expected an array of names"},
      {keys(good + R"(,"limit":1})"), "limit: expected no such field"},
      {keys(good + "}," + good + "}"), "keys[1]: id " + drawn.record.id + " comes twice"},
      {R"({"version":1,"tenants":[{"name":"a b"}]})", "tenants[0], name: expected 1 to 64"},
      {R"({"version":1,"tenants":[{"name":"a","weight":0}]})",
       "weight: expected a number from 0.001"},
      {R"({"version":1,"tenants":[{"name":"a","weight":1e-300}]})",
       "weight: expected a number from 0.001"},
      {R"({"version":1,"tenants":[{"name":"a"},{"name":"a"}]})", "\"a\" comes twice"},
  };
  for (const auto& each : kCases) {
    const absl::Status status = ParseKeyFile(each.text, "f").status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << each.text;
    EXPECT_NE(std::string(status.message()).find(each.wanted), std::string::npos)
        << each.text << "\n"
        << status;
  }
  EXPECT_TRUE(absl::IsNotFound(ReadKeyFile("/nonexistent/keys.json").status()));
}

}  // namespace
}  // namespace conclave::identity

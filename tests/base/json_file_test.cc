#include "shared/base/json_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>

namespace conclave {
namespace {

namespace fs = std::filesystem;

class JsonFileTest : public ::testing::Test {
 protected:
  JsonFileTest()
      : folder_(::testing::TempDir() + "json_file_test_" +
                ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(folder_);
  }
  ~JsonFileTest() override { fs::remove_all(folder_); }

  const std::string folder_;
};

TEST_F(JsonFileTest, ReadsWhatItWroteAndMakesFolders) {
  const std::string path = folder_ + "/a/b/state.json";
  ASSERT_EQ(WriteJsonFile(path, {{"term", 7}}), absl::OkStatus());
  const auto value = ReadJsonFile(path);
  ASSERT_TRUE(value.ok());
  EXPECT_EQ((*value)["term"], 7);
}

TEST_F(JsonFileTest, ReplacesTheFileAndLeavesNothingBeside) {
  const std::string path = folder_ + "/state.json";
  ASSERT_TRUE(WriteJsonFile(path, {{"term", 1}}).ok());
  ASSERT_TRUE(WriteJsonFile(path, {{"term", 2}}).ok());
  EXPECT_EQ((*ReadJsonFile(path))["term"], 2);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

TEST_F(JsonFileTest, AFileThatIsNotFlushedIsReplacedAsWell) {
  const std::string path = folder_ + "/unflushed";
  for (const char* text : {"first", "second"}) {
    ASSERT_EQ(WriteFileAtomically(path, text, Flush::kNo), absl::OkStatus());
    EXPECT_EQ(*ReadFile(path), text);
  }
}

TEST_F(JsonFileTest, KeepsOwnerAndModeWhereItIsToldTo) {
  const std::string path = folder_ + "/shared.json";
  const auto status = [&path] {
    struct stat now = {};
    EXPECT_EQ(stat(path.c_str(), &now), 0);
    return now;
  };
  ASSERT_EQ(WriteJsonFile(path, {{"term", 1}}, Access::kAsBefore), absl::OkStatus());
  EXPECT_EQ(status().st_mode & 0777, 0600U) << "there was none before";
  ASSERT_EQ(chmod(path.c_str(), 0640), 0);
  const bool root = geteuid() == 0;
  if (root) {
    ASSERT_EQ(chown(path.c_str(), 4321, 1234), 0);
  }
  ASSERT_EQ(WriteJsonFile(path, {{"term", 2}}, Access::kAsBefore), absl::OkStatus());
  EXPECT_EQ((*ReadJsonFile(path))["term"], 2);
  EXPECT_EQ(status().st_mode & 0777, 0640U);
  if (root) {
    EXPECT_EQ(status().st_uid, 4321U);
    EXPECT_EQ(status().st_gid, 1234U);
  }
  ASSERT_EQ(WriteJsonFile(path, {{"term", 3}}), absl::OkStatus());
  EXPECT_EQ(status().st_mode & 0777, 0600U);
  EXPECT_EQ(status().st_uid, geteuid());
}

TEST_F(JsonFileTest, LeavesAFileAloneWhoseOwnerItCannotKeep) {
  if (geteuid() != 0) GTEST_SKIP() << "needs root, to make a file of another user";
  const std::string path = folder_ + "/shared.json";
  ASSERT_EQ(WriteJsonFile(path, {{"term", 1}}), absl::OkStatus());
  ASSERT_EQ(chmod(folder_.c_str(), 0777), 0);
  ASSERT_EQ(seteuid(4321), 0);
  const absl::Status written = WriteJsonFile(path, {{"term", 2}}, Access::kAsBefore);
  ASSERT_EQ(seteuid(0), 0);
  EXPECT_EQ(written.code(), absl::StatusCode::kPermissionDenied) << written;
  EXPECT_THAT(std::string(written.message()), ::testing::HasSubstr("user 0"));
  EXPECT_EQ((*ReadJsonFile(path))["term"], 1);
  EXPECT_EQ(std::distance(fs::directory_iterator(folder_), fs::directory_iterator()), 1);
}

TEST_F(JsonFileTest, SaysWhichFileIsMissing) {
  const auto value = ReadJsonFile(folder_ + "/none.json");
  EXPECT_EQ(value.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(value.status().message()), ::testing::HasSubstr("none.json"));
}

TEST_F(JsonFileTest, RefusesHalfAFile) {
  fs::create_directories(folder_);
  std::ofstream(folder_ + "/half.json") << "{\"term\": 1";
  const auto value = ReadJsonFile(folder_ + "/half.json");
  EXPECT_EQ(value.status().code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(value.status().message()), ::testing::HasSubstr("half.json"));
}

TEST_F(JsonFileTest, RefusesAtOnceWhatIsNoRegularFile) {
  fs::create_directories(folder_ + "/folder");
  ASSERT_EQ(mkfifo((folder_ + "/pipe").c_str(), 0600), 0);
  fs::create_symlink("/dev/zero", folder_ + "/zero");
  for (const char* name : {"/folder", "/pipe", "/zero"}) {
    const absl::Status status = ReadJsonFile(folder_ + name).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << status;
    EXPECT_THAT(std::string(status.message()),
                ::testing::HasSubstr(std::string(name) + " is not a regular file"));
  }
}

TEST_F(JsonFileTest, ReadsUpToALimit) {
  fs::create_directories(folder_);
  const std::string path = folder_ + "/text";
  std::ofstream(path) << std::string(20'000, 'x');
  EXPECT_EQ(ReadRegularFile(path, 20'000)->size(), 20'000u);
  const absl::Status status = ReadRegularFile(path, 19'999).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()),
              ::testing::HasSubstr("/text has more than 19999 bytes"));
  // Its size is said to be 0.
  EXPECT_EQ(ReadRegularFile("/proc/self/status", 10).status().code(),
            absl::StatusCode::kInvalidArgument);
  std::ofstream(path).close();
  fs::resize_file(path, kMaxJsonFileBytes + 1);
  EXPECT_THAT(std::string(ReadJsonFile(path).status().message()),
              ::testing::HasSubstr("has more than 16777216 bytes"));
}

TEST_F(JsonFileTest, SaysWhyItCannotWrite) {
  fs::create_directories(folder_);
  std::ofstream(folder_ + "/file") << "x";
  const absl::Status status = WriteJsonFile(folder_ + "/file/below.json", 1);
  EXPECT_FALSE(status.ok());
  EXPECT_THAT(std::string(status.message()), ::testing::HasSubstr(folder_ + "/file"));
}

TEST(JsonNestingTest, CountsBracketsOutsideStrings) {
  const std::string deep(kDeepestJson + 1, '[');
  EXPECT_TRUE(IsNestedTooDeeply(deep));
  EXPECT_TRUE(IsNestedTooDeeply("{\"a\": " + deep));
  EXPECT_FALSE(IsNestedTooDeeply(std::string(kDeepestJson, '[') + std::string(kDeepestJson, ']')));
  EXPECT_FALSE(IsNestedTooDeeply("\"" + deep + "\""));
  EXPECT_FALSE(IsNestedTooDeeply("\"a\\\"" + deep + "\""));
  std::string flat;
  for (int i = 0; i < 1000; ++i) flat += "[{}],";
  EXPECT_FALSE(IsNestedTooDeeply(flat));
  EXPECT_FALSE(IsNestedTooDeeply(""));
}

}  // namespace
}  // namespace conclave

#include "shared/base/json_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

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

#include "services/engine/evaluation/logits_file.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <filesystem>
#include <vector>

#include "tests/support/temp_dir.h"

namespace conclave::engine {
namespace {

TEST(LogitsFileTest, GivesBackWhatWasAppendedInOtherParts) {
  auto file = LogitsFile::Create();
  ASSERT_TRUE(file.ok()) << file.status();
  ASSERT_TRUE((*file)->Append(std::vector<float>{1, 2, 3}).ok());
  ASSERT_TRUE((*file)->Append(std::vector<float>{4}).ok());
  std::vector<float> two(2);
  ASSERT_TRUE((*file)->ReadNext(two).ok());
  EXPECT_EQ(two, (std::vector<float>{1, 2}));
  ASSERT_TRUE((*file)->ReadNext(two).ok());
  EXPECT_EQ(two, (std::vector<float>{3, 4}));
  EXPECT_EQ((*file)->ReadNext(two).code(), absl::StatusCode::kUnavailable);
}

TEST(LogitsFileTest, LeavesNothingInItsFolder) {
  const testing::TempDir folder;
  ASSERT_EQ(setenv("TMPDIR", folder.path().c_str(), 1), 0);
  {
    auto file = LogitsFile::Create();
    ASSERT_TRUE(file.ok()) << file.status();
    ASSERT_TRUE((*file)->Append(std::vector<float>{1}).ok());
    EXPECT_TRUE(std::filesystem::is_empty(folder.path()));
  }
  unsetenv("TMPDIR");
}

}  // namespace
}  // namespace conclave::engine

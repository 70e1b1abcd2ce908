#include "services/engine/evaluation/text_windows.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <numeric>

namespace conclave::engine {
namespace {

using ::testing::ElementsAre;

std::vector<int32_t> Ids(int32_t count) {
  std::vector<int32_t> ids(static_cast<size_t>(count));
  std::iota(ids.begin(), ids.end(), 10);
  return ids;
}

TEST(TextWindowsTest, HoldEveryIdOnceInItsOrder) {
  EXPECT_THAT(TextWindows(Ids(8), 3, {}),
              ElementsAre(ElementsAre(10, 11, 12), ElementsAre(13, 14, 15), ElementsAre(16, 17)));
  EXPECT_THAT(TextWindows(Ids(3), 512, {}), ElementsAre(ElementsAre(10, 11, 12)));
}

TEST(TextWindowsTest, LeaveOutAnEndWithoutAnythingToPredict) {
  EXPECT_THAT(TextWindows(Ids(4), 3, {}), ElementsAre(ElementsAre(10, 11, 12)));
  EXPECT_TRUE(TextWindows(Ids(1), 3, {}).empty());
  EXPECT_TRUE(TextWindows(Ids(0), 3, {}).empty());
}

TEST(TextWindowsTest, BeginWithTheIdThatPromptsBeginWith) {
  EXPECT_THAT(TextWindows(Ids(5), 3, 1),
              ElementsAre(ElementsAre(1, 10, 11), ElementsAre(1, 12, 13), ElementsAre(1, 14)));
  EXPECT_TRUE(TextWindows(Ids(0), 3, 1).empty());
}

}  // namespace
}  // namespace conclave::engine

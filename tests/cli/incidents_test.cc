#include "services/cli/incidents.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace conclave::cli {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

constexpr int64_t kBegan = 1'000'000;

// Ten tokens, one every 50 ms, but the fifth, which comes `late_ms` later.
GenerationResult TenTokens(int64_t late_ms) {
  GenerationResult result;
  for (int64_t i = 0; i < 10; ++i) {
    const int64_t at_ms = 50 * i + (i >= 4 ? late_ms : 0);
    result.arrivals.push_back({std::chrono::milliseconds(at_ms), 1, kBegan + at_ms});
  }
  return result;
}

Event Death(int64_t after_ms, const std::string& member = "expert-0") {
  return {kBegan + after_ms, member, "(4104) ended by SIGKILL; restarts in 0.2 s", true};
}

TEST(DeathsBetweenTest, TellsEachMemberOnceAndNothingElse) {
  const std::vector<Event> events = {
      Death(9),
      Death(10),
      {kBegan + 11, "expert-0", "restarted as 4188", false},
      {kBegan + 12, "expert-0", "lost: its lease ran out; 32 experts wait for it", true},
      {kBegan + 13, "expert-9", "lost: its lease ran out; 32 experts wait for it", true},
      Death(21, "gateway")};
  EXPECT_THAT(DeathsBetween(events, kBegan + 10, kBegan + 20),
              ElementsAre("expert-0 (4104) ended by SIGKILL", "expert-9 lost"));
  EXPECT_THAT(DeathsBetween({}, 0, 1), IsEmpty());
}

TEST(DescribePauseTest, NamesTheTokenTheDeathAndTheGap) {
  EXPECT_EQ(DescribePause(TenTokens(650), {Death(160)}),
            "token 5: expert-0 (4104) ended by SIGKILL, longest gap 700 ms (usual 50 ms)");
  // The last token before the gap may come after the death.
  EXPECT_NE(DescribePause(TenTokens(650), {Death(140)}), "");
}

TEST(DescribePauseTest, InventsNothing) {
  EXPECT_EQ(DescribePause(TenTokens(650), {}), "") << "a pause without a death";
  EXPECT_EQ(DescribePause(TenTokens(0), {Death(160)}), "") << "a death without a pause";
  EXPECT_EQ(DescribePause(TenTokens(30), {Death(160)}), "") << "a pause as any machine has";
  EXPECT_EQ(DescribePause(TenTokens(650), {Death(900)}), "") << "a death after the pause";
  EXPECT_EQ(DescribePause(TenTokens(650), {Death(-100)}), "") << "a death long before";
  EXPECT_EQ(DescribePause(GenerationResult{}, {Death(0)}), "");
}

TEST(DescribePauseTest, CountsTokensThatCameTogether) {
  GenerationResult result = TenTokens(650);
  result.arrivals[0].num_tokens = 3;
  EXPECT_EQ(DescribePause(result, {Death(160)}).substr(0, 8), "token 7:");
}

}  // namespace
}  // namespace conclave::cli

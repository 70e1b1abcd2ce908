#include "services/engine/penalty_counts.h"

#include <map>
#include <vector>

#include "gtest/gtest.h"
#include "rapidcheck/gtest.h"

namespace conclave::engine {
namespace {

TEST(PenaltyCounts, TellsPromptFromOutput) {
  PenaltyCounts counts;
  EXPECT_TRUE(counts.counts().empty());
  const std::vector<int32_t> prompt{5, 3, 5}, generated{3, 9};
  counts.Start(prompt, generated);
  counts.Add(1);
  counts.Add(9);
  ASSERT_EQ(counts.counts().size(), 4u);
  const auto all = counts.counts();
  EXPECT_EQ(std::tuple(all[0].id, all[0].in_prompt, all[0].in_output), std::tuple(1, 0, 1));
  EXPECT_EQ(std::tuple(all[1].id, all[1].in_prompt, all[1].in_output), std::tuple(3, 1, 1));
  EXPECT_EQ(std::tuple(all[2].id, all[2].in_prompt, all[2].in_output), std::tuple(5, 2, 0));
  EXPECT_EQ(std::tuple(all[3].id, all[3].in_prompt, all[3].in_output), std::tuple(9, 0, 2));
}

// A sequence that goes on elsewhere counts what an undisturbed one counts.
RC_GTEST_PROP(PenaltyCountsProperty, ResumedEqualsUndisturbed, ()) {
  const auto prompt = *rc::gen::container<std::vector<int32_t>>(rc::gen::inRange(0, 10));
  const auto generated = *rc::gen::container<std::vector<int32_t>>(rc::gen::inRange(0, 10));
  PenaltyCounts undisturbed, resumed;
  undisturbed.Start(prompt, {});
  for (int32_t id : generated) undisturbed.Add(id);
  resumed.Start(prompt, generated);
  RC_ASSERT(undisturbed.counts().size() == resumed.counts().size());
  for (size_t i = 0; i < resumed.counts().size(); ++i) {
    RC_ASSERT(undisturbed.counts()[i].id == resumed.counts()[i].id);
    RC_ASSERT(undisturbed.counts()[i].in_prompt == resumed.counts()[i].in_prompt);
    RC_ASSERT(undisturbed.counts()[i].in_output == resumed.counts()[i].in_output);
    RC_ASSERT(i == 0 || resumed.counts()[i - 1].id < resumed.counts()[i].id);
  }
}

}  // namespace
}  // namespace conclave::engine
